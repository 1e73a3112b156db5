// <list-keys> around a table or list: j and k (or the arrows) move, Enter opens, c copies the address, and a click anywhere in a row
// opens it unless text is being selected. A row is any [data-row]; it opens through its first link.
customElements.define(
  "list-keys",
  class extends HTMLElement {
    connectedCallback() {
      this.onkey = (event) => this.key(event);
      document.addEventListener("keydown", this.onkey);
      this.addEventListener("click", (event) => this.click(event));
    }

    disconnectedCallback() {
      document.removeEventListener("keydown", this.onkey);
    }

    get rows() {
      return [...this.querySelectorAll("[data-row]")].filter((row) => row.checkVisibility());
    }

    get current() {
      return this.querySelector("[data-row][data-current]");
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, details, json-view")) return;
      const step = { j: 1, k: -1 }[event.key];
      if (step) {
        const rows = this.rows;
        const at = rows.indexOf(this.current);
        const next = at < 0 ? rows[0] : rows[at + step];
        if (!next) return;
        event.preventDefault();
        this.mark(next);
        next.scrollIntoView({ block: "nearest" });
        // With a record open beside the list, moving along the list turns its pages.
        if (document.querySelector("side-panel[open]")) this.open(next);
        else next.querySelector("a")?.focus({ preventScroll: true });
      } else if (event.key === "Enter" && this.current && !event.target.closest("a, button, summary")) {
        this.open(this.current);
      } else if (event.key === "c" && this.current && !getSelection().toString()) {
        navigator.clipboard?.writeText(this.current.querySelector("a").href);
      }
    }

    click(event) {
      const row = event.target.closest("[data-row]");
      if (!row || event.defaultPrevented) return;
      this.mark(row);
      if (event.target.closest("a, button, input, label, summary, copy-button") || getSelection().toString()) return;
      if (event.ctrlKey || event.metaKey) window.open(row.querySelector("a").href);
      else this.open(row);
    }

    mark(row) {
      for (const other of this.querySelectorAll("[data-row][data-current]")) delete other.dataset.current;
      row.dataset.current = "";
    }

    open(row) {
      row.querySelector("a")?.click();
    }
  },
);
