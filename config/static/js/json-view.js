// <json-view><pre>{…}</pre></json-view>: the same JSON, foldable. Long lists show their first 50 items and then the rest on demand.
// Keys: arrows move between folds, Enter or Space opens one, "*" opens all (details and summary do the rest).
customElements.define(
  "json-view",
  class extends HTMLElement {
    connectedCallback() {
      const pre = this.querySelector(":scope > pre");
      if (!pre || pre.textContent.length > 400_000) return;
      let value;
      try {
        value = JSON.parse(pre.textContent);
      } catch {
        return; // Not JSON, or JSON with NaN: the text stands as it is.
      }
      const text = pre.textContent;
      const root = document.createElement("div");
      root.append(this.draw(value, 0, ""));
      const copy = document.createElement("copy-button");
      copy.dataset.text = text;
      copy.dataset.what = "JSON";
      copy.className = "json__copy";
      this.replaceChildren(copy, root);
      this.addEventListener("keydown", (event) => this.key(event));
    }

    draw(value, depth, key) {
      if (key !== "") {
        const line = document.createDocumentFragment();
        const plain = value === null || typeof value !== "object" || !Object.keys(value).length || this.isRow(value);
        if (plain) line.append(this.span("key", `${JSON.stringify(key)}: `));
        line.append(plain ? this.draw(value, depth, "") : this.fold(value, depth, key));
        return line;
      }
      if (value === null || typeof value === "boolean") return this.span("word", String(value));
      if (typeof value === "number") return this.span("number", String(value));
      if (typeof value === "string") return this.span("string", JSON.stringify(value));
      if (!Object.keys(value).length) return document.createTextNode(Array.isArray(value) ? "[]" : "{}");
      if (this.isRow(value)) {
        const row = document.createElement("span");
        row.append("[");
        value.forEach((item, index) => row.append(index ? ", " : "", this.draw(item, depth + 1, "")));
        row.append("]");
        return row;
      }
      return this.fold(value, depth, "");
    }

    // A short list of plain values reads best as a row.
    isRow(value) {
      return Array.isArray(value) && value.length <= 64 && value.every((item) => item === null || typeof item === "number" || typeof item === "boolean");
    }

    fold(value, depth, key) {
      const list = Array.isArray(value);
      const entries = list ? value.map((item, index) => [index, item]) : Object.entries(value);
      const fold = document.createElement("details");
      fold.open = depth < 3 && entries.length <= 50;
      const summary = document.createElement("summary");
      if (key !== "") summary.append(this.span("key", `${JSON.stringify(key)}: `));
      summary.append(list ? "[" : "{", this.span("peek", list ? " … ]" : " … }"), this.span("n", ` ${entries.length}`));
      const body = document.createElement("div");
      body.className = "json__body";
      fold.append(summary, body, list ? "]" : "}");
      const fill = () => this.fill(body, entries, 0, list, depth);
      if (fold.open) fill();
      else fold.addEventListener("toggle", fill, { once: true });
      return fold;
    }

    fill(body, entries, from, list, depth) {
      for (const [key, item] of entries.slice(from, from + 50)) {
        const line = document.createElement("div");
        line.className = "json__line";
        line.append(this.draw(item, depth + 1, list ? "" : key));
        body.append(line);
      }
      if (entries.length <= from + 50) return;
      const more = document.createElement("button");
      more.type = "button";
      more.className = "button button--small button--quiet";
      more.textContent = `${entries.length - from - 50} more`;
      more.addEventListener("click", () => {
        more.remove();
        this.fill(body, entries, from + 50, list, depth);
      });
      body.append(more);
    }

    span(kind, text) {
      const span = document.createElement("span");
      span.className = `json__${kind}`;
      span.textContent = text;
      return span;
    }

    key(event) {
      const folds = [...this.querySelectorAll("summary")].filter((summary) => summary.checkVisibility());
      const at = folds.indexOf(document.activeElement);
      if (event.key === "*") for (const fold of this.querySelectorAll("details")) fold.open = true;
      else if (event.key === "ArrowDown") folds[at + 1]?.focus();
      else if (event.key === "ArrowUp") folds[Math.max(0, at - 1)]?.focus();
      else if (event.key === "ArrowRight" && at >= 0) folds[at].parentElement.open = true;
      else if (event.key === "ArrowLeft" && at >= 0) folds[at].parentElement.open = false;
      else return;
      event.preventDefault();
    }
  },
);
