// <picture-input data-height data-width data-channels data-black data-white><input type="file"></picture-input>: a picture from the
// reader's machine, cut square to the model's proportions and scaled to its size. `value` is [height][width][channels], null while
// empty; nothing leaves the browser before the call.
customElements.define(
  "picture-input",
  class extends HTMLElement {
    connectedCallback() {
      if (this.canvas) return;
      const { height, width, channels, black, white } = this.dataset;
      Object.assign(this, { height: +height, width: +width, channels: +channels, black: +black, white: +white, filled: false });
      this.canvas = document.createElement("canvas");
      this.canvas.width = this.width;
      this.canvas.height = this.height;
      this.canvas.className = "picture__canvas";
      this.canvas.setAttribute("role", "img");
      this.canvas.setAttribute("aria-label", `The picture as the model sees it, ${height} × ${width}`);
      this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
      this.append(this.canvas);
      this.querySelector("input").addEventListener("change", (event) => this.read(event.target.files[0]));
      this.addEventListener("dragover", (event) => event.preventDefault());
      this.addEventListener("drop", (event) => {
        event.preventDefault();
        this.read(event.dataTransfer.files[0]);
      });
    }

    async read(file) {
      if (!file) return;
      let picture;
      try {
        picture = await createImageBitmap(file);
      } catch {
        this.dispatchEvent(new CustomEvent("refused", { bubbles: true, detail: `${file.name} is not a picture that this browser can read.` }));
        return;
      }
      const scale = Math.max(this.width / picture.width, this.height / picture.height);
      const [w, h] = [picture.width * scale, picture.height * scale];
      this.pen.imageSmoothingQuality = "high";
      this.pen.clearRect(0, 0, this.width, this.height);
      this.pen.drawImage(picture, (this.width - w) / 2, (this.height - h) / 2, w, h);
      this.filled = true;
      this.dispatchEvent(new Event("input", { bubbles: true }));
    }

    get value() {
      if (!this.filled) return null;
      const { data } = this.pen.getImageData(0, 0, this.width, this.height);
      const scaled = (byte) => this.black + (byte / 255) * (this.white - this.black);
      const pixel = (at) => {
        const [r, g, b, a] = data.slice(at, at + 4);
        const grey = scaled(0.299 * r + 0.587 * g + 0.114 * b);
        if (this.channels === 0) return grey;
        return this.channels === 1 ? [grey] : [r, g, b, a].slice(0, this.channels).map(scaled);
      };
      return Array.from({ length: this.height }, (_, y) => Array.from({ length: this.width }, (_, x) => pixel(4 * (y * this.width + x))));
    }

    set value(rows) {
      this.filled = Boolean(rows);
      const picture = this.pen.createImageData(this.width, this.height);
      const byte = (value) => (255 * (value - this.black)) / (this.white - this.black || 1);
      rows?.forEach((row, y) =>
        row.forEach((pixel, x) => {
          const channels = Array.isArray(pixel) ? pixel : [pixel];
          const at = 4 * (y * this.width + x);
          for (let c = 0; c < 3; c++) picture.data[at + c] = byte(channels.length < 3 ? channels[0] : channels[c]);
          picture.data[at + 3] = 255;
        }),
      );
      this.pen.putImageData(picture, 0, 0);
    }
  },
);
