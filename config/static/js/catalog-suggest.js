// <catalog-suggest data-url="…"> around a search form and a listbox: names and tags while typing. Arrows choose, Enter opens what is
// chosen or searches, Escape closes; the form works without it.
customElements.define(
  "catalog-suggest",
  class extends HTMLElement {
    connectedCallback() {
      this.input = this.querySelector("[role=combobox]");
      this.list = this.querySelector("[role=listbox]");
      this.input.addEventListener("input", () => {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.load(), 120);
      });
      this.input.addEventListener("keydown", (event) => this.key(event));
      this.querySelector("form").addEventListener("submit", () => this.close());
      this.addEventListener("focusout", (event) => {
        if (!this.contains(event.relatedTarget)) this.close();
      });
    }

    async load() {
      this.request?.abort();
      const text = this.input.value.trim();
      if (!text) return this.close();
      this.request = new AbortController();
      try {
        const answer = await fetch(`${this.dataset.url}?q=${encodeURIComponent(text)}`, { signal: this.request.signal });
        if (!answer.ok || document.activeElement !== this.input) return;
        this.list.innerHTML = await answer.text();
      } catch {
        return; // a newer one is under way, or the site is away: typing goes on
      }
      this.at = -1;
      const any = this.options.length > 0;
      this.list.hidden = !any;
      this.input.setAttribute("aria-expanded", String(any));
      this.input.removeAttribute("aria-activedescendant");
    }

    get options() {
      return [...this.list.querySelectorAll("[role=option]")];
    }

    close() {
      clearTimeout(this.timer);
      this.request?.abort();
      this.list.hidden = true;
      this.at = -1;
      this.input.setAttribute("aria-expanded", "false");
      this.input.removeAttribute("aria-activedescendant");
    }

    key(event) {
      const { options } = this;
      if (event.key === "Escape" && !this.list.hidden) this.close();
      else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && !this.list.hidden) {
        this.at = (this.at + (event.key === "ArrowDown" ? 1 : -1) + options.length + 1) % (options.length + 1);
        if (this.at === options.length) this.at = event.key === "ArrowDown" ? 0 : options.length - 1;
        options.forEach((option, index) => option.setAttribute("aria-selected", String(index === this.at)));
        this.input.setAttribute("aria-activedescendant", options[this.at].id);
        options[this.at].scrollIntoView({ block: "nearest" });
      } else if (event.key === "Enter" && this.at >= 0 && !this.list.hidden) options[this.at].click();
      else return;
      event.preventDefault();
    }
  },
);
