// <time-histogram data-since data-until data-link>: drag over the bars to zoom into that time. The bars themselves are links, so a
// click needs nothing from here. The new times replace those of the query in the address; everything else of it stays.
customElements.define(
  "time-histogram",
  class extends HTMLElement {
    connectedCallback() {
      this.bars = this.querySelector("svg");
      this.brush = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      this.brush.classList.add("brush");
      this.brush.setAttribute("height", "100%");
      this.bars.append(this.brush);
      this.bars.addEventListener("pointerdown", (event) => this.start(event));
      this.bars.addEventListener("pointermove", (event) => this.move(event));
      this.bars.addEventListener("pointerup", (event) => this.end(event));
      this.bars.addEventListener("pointercancel", () => this.clear());
      this.bars.addEventListener("dragstart", (event) => event.preventDefault());
      // A drag must not be taken for a click on the bar under it.
      this.bars.addEventListener("click", (event) => this.dragged && (event.preventDefault(), event.stopPropagation()), true);
    }

    place(event) {
      const box = this.bars.getBoundingClientRect();
      return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    }

    start(event) {
      if (event.button || event.pointerType === "touch") return;
      this.from = this.place(event);
      this.pointer = event.pointerId;
      this.dragged = false;
    }

    move(event) {
      if (this.from === undefined) return;
      const to = this.place(event);
      if (!this.dragged && Math.abs(to - this.from) < 0.008) return;
      if (!this.dragged) this.bars.setPointerCapture(this.pointer);
      this.dragged = true;
      this.brush.setAttribute("x", `${Math.min(this.from, to) * 100}%`);
      this.brush.setAttribute("width", `${Math.abs(to - this.from) * 100}%`);
    }

    end(event) {
      if (this.from === undefined) return;
      const [low, high] = [this.from, this.place(event)].sort((a, b) => a - b);
      this.from = undefined;
      if (!this.dragged) return;
      const since = Date.parse(this.dataset.since);
      const span = Date.parse(this.dataset.until) - since;
      const url = new URL(this.dataset.link, location.href);
      // Terms as the query language divides them: text in quotes holds spaces.
      const terms = (new URL(location).searchParams.get("q") || "").match(/(?:"(?:\\.|[^"\\])*"?|[^\s"])+/g) || [];
      const kept = terms.filter((term) => !/^(since|until):/i.test(term));
      const iso = (part) => new Date(since + part * span).toISOString().replace(/\.\d+Z$/, "Z");
      kept.push(`since:${iso(low)}`, `until:${iso(high)}`);
      url.searchParams.set("q", kept.join(" "));
      location.assign(url);
    }

    clear() {
      this.from = undefined;
      this.brush.setAttribute("width", "0");
    }
  },
);
