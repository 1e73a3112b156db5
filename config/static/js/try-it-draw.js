// <draw-pad data-height="8" data-width="8" data-black="16" data-white="0">: draw with mouse, pen or finger; `value` is the picture as the
// model gets it, a flat list of height × width numbers, null while empty. Strokes are kept as lines: the figure is centred and
// enlarged to fill the frame and then drawn with a stroke of constant relative width, as the makers of digit data sets did with
// theirs. Setting `value` shows those pixels instead (a sample). Both views are SVG in the text colour, so they follow the theme.
{
  const SVG = "http://www.w3.org/2000/svg";
  const STROKE = 0.16; // of the frame: what gives ten drawn digits the mean ink of the UCI digits (0.3)
  const DETAIL = 8; // points a pixel and side, averaged

  const element = (name, attributes = {}) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  // Pixels as squares whose opacity is the ink.
  const grid = (values, height, width, black, white) => {
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, class: "pixels", "shape-rendering": "crispEdges", "aria-hidden": "true" });
    values.forEach((value, index) => {
      const ink = Math.max(0, Math.min(1, (value - white) / (black - white || 1)));
      if (ink > 0.004)
        svg.append(element("rect", { x: index % width, y: Math.floor(index / width), width: 1, height: 1, "fill-opacity": ink.toFixed(3) }));
    });
    return svg;
  };

  customElements.define(
    "draw-pad",
    class extends HTMLElement {
      static grid = grid;

      connectedCallback() {
        if (this.pad) return;
        this.height = Number(this.dataset.height);
        this.width = Number(this.dataset.width);
        this.black = Number(this.dataset.black);
        this.white = Number(this.dataset.white);
        this.strokes = [];
        this.pixels = null;
        this.pad = element("svg", { viewBox: `0 0 ${100 * this.width} ${100 * this.height}`, class: "draw__pad", role: "img" });
        this.pad.append(element("title"));
        this.pad.firstChild.textContent = "Draw here";
        this.seen = document.createElement("div");
        this.seen.className = "draw__seen";
        const clear = document.createElement("button");
        clear.type = "button";
        clear.className = "button button--small";
        clear.textContent = "Clear";
        clear.addEventListener("click", () => this.clear());
        const side = document.createElement("div");
        side.className = "draw__side";
        const words = document.createElement("p");
        words.className = "note";
        words.textContent = `as the model sees it, ${this.height} × ${this.width}`;
        side.append(this.seen, words, clear);
        this.append(this.pad, side);
        this.pad.addEventListener("pointerdown", (event) => this.start(event));
        this.show();
      }

      clear() {
        this.strokes = [];
        this.pixels = null;
        this.changed();
      }

      start(event) {
        if (event.button) return;
        event.preventDefault();
        this.pad.setPointerCapture(event.pointerId);
        if (this.pixels) this.clear();
        const stroke = [this.point(event)];
        this.strokes.push(stroke);
        const move = (moved) => {
          for (const each of moved.getCoalescedEvents?.().length ? moved.getCoalescedEvents() : [moved]) stroke.push(this.point(each));
          this.show();
        };
        const end = () => {
          this.pad.removeEventListener("pointermove", move);
          this.changed();
        };
        this.pad.addEventListener("pointermove", move);
        this.pad.addEventListener("pointerup", end, { once: true });
        this.pad.addEventListener("pointercancel", end, { once: true });
        this.show();
      }

      point(event) {
        const box = this.pad.getBoundingClientRect();
        const part = (at, from, length) => Math.max(0, Math.min(1, (at - from) / length));
        return [part(event.clientX, box.left, box.width) * this.width, part(event.clientY, box.top, box.height) * this.height];
      }

      changed() {
        this.show();
        this.dispatchEvent(new Event("input", { bubbles: true }));
      }

      show() {
        const title = this.pad.querySelector("title");
        this.pad.replaceChildren(title);
        const value = this.value;
        if (this.pixels) {
          const picture = grid(this.pixels, this.height, this.width, this.black, this.white);
          picture.setAttribute("width", 100 * this.width);
          picture.setAttribute("height", 100 * this.height);
          this.pad.append(picture);
        }
        for (const stroke of this.strokes) {
          const points = stroke.length > 1 ? stroke : [stroke[0], [stroke[0][0] + 0.001, stroke[0][1]]];
          this.pad.append(
            element("polyline", {
              points: points.map(([x, y]) => `${(100 * x).toFixed(1)},${(100 * y).toFixed(1)}`).join(" "),
              "stroke-width": 100 * STROKE * 0.55 * Math.min(this.width, this.height),
            }),
          );
        }
        this.toggleAttribute("data-empty", !value);
        this.seen.replaceChildren(grid(value ?? [], this.height, this.width, this.black, this.white));
      }

      get value() {
        if (this.pixels) return this.pixels;
        if (!this.strokes.length) return null;
        return this.rasterised().map((ink) => this.white + ink * (this.black - this.white));
      }

      set value(pixels) {
        this.strokes = [];
        this.pixels = pixels ? pixels.flat(Infinity).map(Number) : null;
        this.show();
      }

      // Ink 0..1 of each pixel.
      rasterised() {
        const { width, height } = this;
        const points = this.strokes.flat();
        const xs = points.map(([x]) => x);
        const ys = points.map(([, y]) => y);
        const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
        const margin = Math.min(width, height) >= 20 ? 4 / 28 : 0;
        const line = STROKE * Math.min(width, height);
        const room = (size) => size * (1 - 2 * margin) - line;
        const tiny = 0.12 * Math.min(width, height); // a dot stays a dot
        const scale = Math.min(room(width) / Math.max(right - left, tiny), room(height) / Math.max(bottom - top, tiny));
        const canvas = new OffscreenCanvas(width * DETAIL, height * DETAIL);
        const pen = canvas.getContext("2d", { willReadFrequently: true });
        pen.scale(DETAIL, DETAIL);
        pen.translate(width / 2, height / 2);
        pen.scale(scale, scale);
        pen.translate(-(left + right) / 2, -(top + bottom) / 2);
        pen.lineWidth = line / scale;
        pen.lineCap = pen.lineJoin = "round";
        for (const stroke of this.strokes) {
          pen.beginPath();
          pen.moveTo(...stroke[0]);
          for (const point of stroke.slice(1)) pen.lineTo(...point);
          if (stroke.length === 1) pen.lineTo(stroke[0][0] + 0.001, stroke[0][1]);
          pen.stroke();
        }
        const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
        const ink = new Array(width * height).fill(0);
        for (let y = 0; y < canvas.height; y++)
          for (let x = 0; x < canvas.width; x++)
            ink[Math.floor(y / DETAIL) * width + Math.floor(x / DETAIL)] += data[4 * (y * canvas.width + x) + 3] / 255;
        return ink.map((sum) => sum / DETAIL ** 2);
      }
    },
  );
}
