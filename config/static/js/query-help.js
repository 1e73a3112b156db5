// <query-help> around the query line: completes field names, and outcomes and kinds, while one types. Tab or Enter takes, Escape hides.
customElements.define(
  "query-help",
  class extends HTMLElement {
    connectedCallback() {
      this.input = this.querySelector("input");
      this.list = document.createElement("ul");
      this.list.className = "completions";
      this.list.id = "completions";
      this.list.setAttribute("role", "listbox");
      this.list.hidden = true;
      this.append(this.list);
      this.input.setAttribute("role", "combobox");
      this.input.setAttribute("aria-controls", this.list.id);
      this.input.setAttribute("aria-expanded", "false");
      this.words = JSON.parse(this.input.dataset.words || "{}");
      this.input.addEventListener("input", () => this.offer());
      this.input.addEventListener("keydown", (event) => this.key(event));
      this.input.addEventListener("blur", () => setTimeout(() => this.hide(), 120));
      this.list.addEventListener("mousedown", (event) => {
        const item = event.target.closest("li");
        if (item) {
          event.preventDefault();
          this.take(item.dataset.text);
        }
      });
    }

    // The word that the cursor stands in, from its start to the cursor.
    get word() {
      const before = this.input.value.slice(0, this.input.selectionStart);
      return before.slice(before.search(/\S*$/));
    }

    offer() {
      const word = this.word.replace(/^-/, "");
      const [field, value] = word.includes(":") ? [word.slice(0, word.indexOf(":")), word.slice(word.indexOf(":") + 1)] : [word, null];
      let found = [];
      if (value === null) found = word ? Object.keys(this.words).filter((name) => name.startsWith(word) && name !== word).map((name) => `${name}:`) : [];
      else {
        const last = value.slice(value.lastIndexOf(",") + 1);
        found = (this.words[field] || []).filter((name) => name.startsWith(last) && name !== last);
      }
      this.list.replaceChildren(
        ...found.slice(0, 8).map((text, place) => {
          const item = document.createElement("li");
          item.setAttribute("role", "option");
          item.dataset.text = text;
          item.textContent = text;
          item.setAttribute("aria-selected", String(place === 0));
          return item;
        }),
      );
      this.list.hidden = !found.length;
      this.input.setAttribute("aria-expanded", String(!this.list.hidden));
    }

    key(event) {
      if (this.list.hidden) return;
      const items = [...this.list.children];
      const at = items.findIndex((item) => item.getAttribute("aria-selected") === "true");
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        const next = items[(at + (event.key === "ArrowDown" ? 1 : items.length - 1)) % items.length];
        for (const item of items) item.setAttribute("aria-selected", String(item === next));
        this.moved = true;
      } else if (event.key === "Tab" || (event.key === "Enter" && this.moved)) this.take(items[at].dataset.text);
      else if (event.key === "Escape") this.hide();
      else return;
      event.preventDefault();
      event.stopPropagation();
    }

    take(text) {
      const end = this.input.selectionStart;
      const word = this.word;
      const cut = Math.max(word.lastIndexOf(","), word.lastIndexOf(":"), word.startsWith("-") ? 0 : -1) + 1;
      const start = end - word.length + cut;
      const gap = text.endsWith(":") ? "" : " ";
      this.input.setRangeText(text + gap, start, end, "end");
      this.input.focus();
      this.hide();
      if (!gap) this.offer();
    }

    hide() {
      this.list.hidden = true;
      this.moved = false;
      this.input.setAttribute("aria-expanded", "false");
    }
  },
);
