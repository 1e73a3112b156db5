// <theme-toggle><button>…</button></theme-toggle>: paper or lamp. Choosing what the system says anyway forgets the choice.
customElements.define(
  "theme-toggle",
  class extends HTMLElement {
    connectedCallback() {
      this.addEventListener("click", (event) => {
        if (!event.target.closest("button")) return;
        const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
        const root = document.documentElement;
        const next = (root.dataset.theme || system) === "dark" ? "light" : "dark";
        try {
          if (next === system) localStorage.removeItem("daybook-theme");
          else localStorage.setItem("daybook-theme", next);
        } catch {
          // Storage is refused: the choice lasts for this page.
        }
        if (next === system) delete root.dataset.theme;
        else root.dataset.theme = next;
        document.dispatchEvent(new CustomEvent("daybook:theme"));
      });
    }
  },
);
