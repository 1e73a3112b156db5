// <copy-button data-text="…"> copies that text; without data-text what the <pre> beside it shows. data-what names it for the ear.
customElements.define(
  "copy-button",
  class extends HTMLElement {
    connectedCallback() {
      if (this.firstElementChild) return;
      const what = this.dataset.what || "text";
      const button = document.createElement("button");
      button.type = "button";
      // Where a region is replaced as time goes, the focus is given back by id.
      if (this.dataset.text && this.closest("[hx-trigger^=every]")) button.id = `copy-${this.dataset.text}`;
      button.title = `Copy ${what}`;
      button.setAttribute("aria-label", button.title);
      button.append(this.mark("m-copy"));
      button.addEventListener("click", async (event) => {
        event.stopPropagation();
        event.preventDefault();
        const text = this.dataset.text ?? this.parentElement.querySelector("pre, code")?.textContent ?? "";
        try {
          await navigator.clipboard.writeText(text);
        } catch {
          this.select();
          return;
        }
        this.dataset.done = "";
        button.replaceChildren(this.mark("m-check"));
        button.setAttribute("aria-label", "Copied");
        clearTimeout(this.timer);
        this.timer = setTimeout(() => {
          delete this.dataset.done;
          button.replaceChildren(this.mark("m-copy"));
          button.setAttribute("aria-label", button.title);
        }, 1600);
      });
      this.append(button);
    }

    mark(id) {
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.setAttribute("aria-hidden", "true");
      svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
      svg.firstChild.setAttribute("href", `#${id}`);
      return svg;
    }

    // No clipboard (plain HTTP on another host): select the text, so that Ctrl-C takes it.
    select() {
      const place = this.previousElementSibling || this.parentElement;
      getSelection().selectAllChildren(place);
    }
  },
);
