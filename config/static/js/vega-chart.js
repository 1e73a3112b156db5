// <vega-chart data-spec-id="traffic">: draws the Vega-Lite specification in the <script type="application/json" id="traffic">.
// The interpreter evaluates expressions (no eval: the CSP forbids it). Colours in a specification are names of tokens; they are
// resolved here and again when the reader changes the theme. With data-link="/audit/records/?q=…" a click on a mark opens the
// records of its time (fields `since` and `until` of the datum join the query), and a brush named "zoom" opens its interval.
{
  const NAME = /^(ink|quiet|rule|rule-strong|paper|raised|accent|fail|warn|control|series-[1-8])$/;

  const probe = document.createElement("span");
  probe.hidden = true;
  const color = (name) => {
    if (!probe.isConnected) document.body.append(probe);
    probe.style.color = `var(--${name})`;
    const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g).map(Number);
    return `rgb(${r}, ${g}, ${b})`;
  };

  const resolve = (value, key) => {
    if (typeof value === "string") return NAME.test(value) && !["type", "mark", "field", "name"].includes(key) ? color(value) : value;
    if (Array.isArray(value)) return value.map((item) => resolve(item, key));
    if (value && typeof value === "object") {
      const copy = {};
      for (const [name, item] of Object.entries(value)) copy[name] = name === "values" || name === "datasets" ? item : resolve(item, name);
      return copy;
    }
    return value;
  };

  const config = () => ({
    background: null,
    font: "IBM Plex Sans",
    view: { stroke: null },
    axis: {
      labelColor: color("quiet"),
      titleColor: color("quiet"),
      labelFontSize: 12,
      titleFontSize: 12,
      titleFontWeight: 400,
      gridColor: color("rule"),
      domainColor: color("rule-strong"),
      tickColor: color("rule-strong"),
      labelPadding: 6,
    },
    axisY: { domain: false, ticks: false },
    axisX: { grid: false },
    text: { font: "IBM Plex Sans", fontSize: 12, color: color("ink") },
    bar: { color: color("accent") },
    line: { strokeWidth: 1.75, color: color("accent") },
    legend: { disable: true },
  });

  const iso = (time) => new Date(time).toISOString().replace(/\.000Z$/, "Z");

  customElements.define(
    "vega-chart",
    class extends HTMLElement {
      connectedCallback() {
        this.ontheme = () => this.draw();
        document.addEventListener("daybook:theme", this.ontheme);
        this.media = matchMedia("(prefers-color-scheme: dark)");
        this.media.addEventListener("change", this.ontheme);
        this.draw();
      }

      disconnectedCallback() {
        document.removeEventListener("daybook:theme", this.ontheme);
        this.media.removeEventListener("change", this.ontheme);
        this.resized?.disconnect();
        this.result?.finalize();
      }

      async draw() {
        const source = document.getElementById(this.dataset.specId);
        if (!source || !globalThis.vegaEmbed) return;
        await document.fonts.ready;
        const spec = resolve(JSON.parse(source.textContent));
        this.inset = (spec.padding?.left ?? 0) + (spec.padding?.right ?? 0);
        spec.width = this.room;
        spec.config = { ...config(), ...(spec.config || {}) };
        this.result?.finalize();
        try {
          this.result = await vegaEmbed(this, spec, {
            ast: true,
            actions: false,
            renderer: "svg",
            defaultStyle: false,
            tooltip: { disableDefaultStyle: true },
            logLevel: globalThis.vega.Error,
          });
        } catch (error) {
          this.textContent = `The chart can't be drawn: ${error.message}`;
          return;
        }
        this.dataset.drawn = "";
        this.resized ??= new ResizeObserver(() => this.fit());
        this.resized.observe(this);
        if (this.dataset.link) this.follow(this.result.view);
      }

      // What is left of the element's width for the plot itself.
      get room() {
        return Math.max(120, this.clientWidth - this.inset);
      }

      fit() {
        const view = this.result?.view;
        if (view && view.width() !== this.room) view.width(this.room).runAsync();
      }

      follow(view) {
        let brushed = null;
        if (view.signal && "zoom" in view.getState({ signals: (name) => name === "zoom" }).signals)
          view.addSignalListener("zoom", (_, zoom) => (brushed = zoom?.at ?? zoom?.since ?? null));
        // The brush settles when the pointer is lifted; only then does the page change.
        this.addEventListener("pointerup", () => {
          if (!brushed || brushed.length !== 2 || brushed[1] - brushed[0] < 1000) return;
          const [since, until] = brushed;
          brushed = null;
          this.go(since, until);
        });
        view.addEventListener("click", (_, item) => {
          const datum = item?.datum;
          if (datum?.since && datum?.until) this.go(new Date(datum.since), new Date(datum.until), datum.term);
        });
      }

      // The link's query, with its own times replaced.
      go(since, until, term) {
        const url = new URL(this.dataset.link, location.href);
        const words = (url.searchParams.get("q") || "").split(/\s+/).filter((word) => word && !/^(since|until):/.test(word));
        if (term) words.push(term);
        words.push(`since:${iso(since)}`, `until:${iso(until)}`);
        url.searchParams.set("q", words.join(" "));
        location.assign(url);
      }
    },
  );
}
