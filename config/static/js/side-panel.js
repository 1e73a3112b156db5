// <side-panel>: one record beside the list, without losing the list. Links with data-panel open here where there is room for it,
// and are ordinary links where there isn't. The address names the open record, so that it can be shared; Escape closes.
{
  const ROOM = matchMedia("(min-width: 1100px)");

  customElements.define(
    "side-panel",
    class extends HTMLElement {
      connectedCallback() {
        this.onclick_ = (event) => this.click(event);
        this.onkey_ = (event) => {
          if (event.key === "Escape" && this.hasAttribute("open") && !event.target.closest("input, textarea, dialog")) this.close();
        };
        this.onpop_ = () => this.follow();
        document.addEventListener("click", this.onclick_);
        document.addEventListener("keydown", this.onkey_);
        addEventListener("popstate", this.onpop_);
        if (this.dataset.open && ROOM.matches) this.load(`/audit/records/${encodeURIComponent(this.dataset.open)}`);
      }

      disconnectedCallback() {
        document.removeEventListener("click", this.onclick_);
        document.removeEventListener("keydown", this.onkey_);
        removeEventListener("popstate", this.onpop_);
      }

      click(event) {
        if (event.target.closest("[data-panel-close]")) return this.close();
        const link = event.target.closest("a[data-panel]");
        if (!link || !ROOM.matches || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
        event.preventDefault();
        const id = link.getAttribute("href").split("/").pop();
        const url = new URL(location);
        if (url.searchParams.get("record") !== id) {
          url.searchParams.set("record", id);
          history[this.hasAttribute("open") ? "replaceState" : "pushState"]({ panel: id }, "", url);
        }
        this.load(link.href);
      }

      async load(url) {
        this.setAttribute("open", "");
        this.closest(".desk")?.setAttribute("data-panel", "");
        if (!this.firstElementChild) {
          const waiting = document.createElement("div");
          waiting.className = "skeleton side-panel__waiting";
          this.append(waiting);
        }
        await htmx.ajax("GET", url, { target: this, swap: "innerHTML" });
        this.scrollTop = 0;
      }

      close() {
        if (!this.hasAttribute("open")) return;
        this.removeAttribute("open");
        this.closest(".desk")?.removeAttribute("data-panel");
        this.replaceChildren();
        const url = new URL(location);
        url.searchParams.delete("record");
        history.replaceState({}, "", url);
        document.querySelector("[data-row][data-current] a")?.focus({ preventScroll: true });
      }

      follow() {
        const id = new URL(location).searchParams.get("record");
        if (id && ROOM.matches) this.load(`/audit/records/${encodeURIComponent(id)}`);
        else if (this.hasAttribute("open")) this.close();
      }
    },
  );
}
