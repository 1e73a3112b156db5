// <try-it data-config="id">: the form of a model page. It reads the fields that the server rendered, sends the call to the gateway
// itself (no proxy in between: what is seen is what a caller gets) and hands the answer to <answer-view>. A signed-in reader's calls
// carry a token of five minutes from the site; visitors may ask open models without one.
{
  class Wrong extends Error {
    constructor(place, message) {
      super(message);
      this.place = place;
    }
  }

  const DEFAULT_SIGNATURE = "serving_default";
  const TIMEOUT_MS = 60_000;

  const nested = (flat, shape) => {
    if (!shape.length) return flat[0];
    const size = flat.length / shape[0];
    return Array.from({ length: shape[0] }, (_, index) => nested(flat.slice(index * size, (index + 1) * size), shape.slice(1)));
  };

  const number = (text, field, place) => {
    const value = Number(text.trim());
    if (!text.trim() || Number.isNaN(value)) throw new Wrong(place, `${field.name}: “${text.trim()}” is not a number.`);
    if (field.kind === "integer" && !Number.isSafeInteger(value)) throw new Wrong(place, `${field.name}: “${text.trim()}” is not a whole number.`);
    return value;
  };

  // How each widget gives one row's value (a list of rows where `many`) and takes one.
  const widgets = {
    draw: {
      get(place, field) {
        const pad = place.querySelector("draw-pad");
        if (!pad.value) throw new Wrong(pad, `${field.name}: draw something first, or pick a sample.`);
        const flat = field.kind === "integer" ? pad.value.map(Math.round) : pad.value.map((value) => Number(value.toFixed(4)));
        return nested(flat, field.row_shape);
      },
      set: (place, value) => (place.querySelector("draw-pad").value = value),
    },
    picture: {
      get(place, field) {
        const picture = place.querySelector("picture-input");
        if (!picture.value) throw new Wrong(picture.querySelector("input"), `${field.name}: choose a picture first.`);
        const round = (value) => (Array.isArray(value) ? value.map(round) : field.kind === "integer" ? Math.round(value) : Number(value.toFixed(4)));
        return round(picture.value);
      },
      set: (place, value) => (place.querySelector("picture-input").value = value),
    },
    numbers: {
      get(place, field) {
        const input = place.querySelector("input");
        const texts = field.many ? input.value.split(/[,;\s]+/).filter(Boolean) : [input.value];
        if (!texts.length) throw new Wrong(input, `${field.name}: expected a number.`);
        const rows = texts.map((text) => nested([number(text, field, input)], field.row_shape));
        return field.many ? rows : rows[0];
      },
      set(place, value) {
        const values = [value].flat(Infinity);
        place.querySelector("input").value = values.map((each) => (Number.isInteger(each) ? each.toFixed(1).replace(/\.0$/, "") : each)).join(", ");
      },
    },
    vector: {
      get: (place, field) => [...place.querySelectorAll("input")].map((input) => number(input.value, field, input)),
      set(place, value) {
        place.querySelectorAll("input").forEach((input, index) => (input.value = value?.[index] ?? ""));
      },
    },
    text: {
      get: (place, field) => nested([place.querySelector("textarea").value], field.row_shape),
      set: (place, value) => (place.querySelector("textarea").value = [value].flat(Infinity)[0] ?? ""),
    },
    choice: {
      get: (place, field) => nested([place.querySelector("input").checked], field.row_shape),
      set: (place, value) => (place.querySelector("input").checked = Boolean([value].flat(Infinity)[0])),
    },
    example: {
      get(place, field) {
        const input = place.querySelector("example-input");
        try {
          return { b64: input.value };
        } catch (error) {
          throw new Wrong(input.querySelector("textarea"), `${field.name}: ${error.message}.`);
        }
      },
      set: (place, value) => (place.querySelector("example-input").features = value),
    },
    json: {
      get(place, field) {
        const input = place.querySelector("textarea");
        try {
          return JSON.parse(input.value);
        } catch (error) {
          throw new Wrong(input, `${field.name}: not JSON (${error.message}).`);
        }
      },
      set: (place, value) => (place.querySelector("textarea").value = value === undefined ? "" : JSON.stringify(value)),
    },
  };

  customElements.define(
    "try-it",
    class extends HTMLElement {
      connectedCallback() {
        if (this.config) return;
        this.config = JSON.parse(document.getElementById(this.dataset.config).textContent);
        this.form = this.querySelector("form");
        this.view = this.querySelector("answer-view");
        this.raw = this.querySelector(".try__raw");
        this.error = this.querySelector(".try__error");
        this.rawButton = this.querySelector("[data-act=raw]");
        this.form.addEventListener("submit", (event) => {
          event.preventDefault();
          this.ask();
        });
        this.form.elements.signature?.addEventListener("change", (event) => this.choose(event.target.value));
        this.rawButton.addEventListener("click", () => this.toggleRaw());
        this.addEventListener("refused", (event) => this.complain(event.detail));
        this.addEventListener("input", () => this.complain(""));
        this.signature = this.config.forms[0].signature;
        for (const form of this.config.forms)
          for (const field of form.fields) {
            const rows = field.many && this.config.examples.find((example) => example.signature === form.signature)?.request.instances;
            if (field.initial !== null) widgets[field.widget].set(this.place(form, field), rows || field.initial);
          }
        this.suggestExamples();
        // A drawing starts empty: an example's pixels would invite nobody to draw.
        for (const pad of this.querySelectorAll("draw-pad")) pad.value = null;
        this.showSamples();
      }

      // A tf.Example has no schema to make a form of, but its features are mostly named like the inputs of the default signature.
      suggestExamples() {
        const features = {};
        for (const field of this.config.forms[0].fields)
          if (field.initial !== null && field.widget !== "example") features[field.name] = [field.initial].flat(Infinity);
        for (const form of this.config.forms)
          for (const field of form.fields) if (field.widget === "example") widgets.example.set(this.place(form, field), features);
      }

      get current() {
        return this.config.forms.find((form) => form.signature === this.signature);
      }

      place(form, field) {
        const fields = [...this.querySelectorAll(".try__fields")].find((each) => each.dataset.signature === form.signature);
        return [...fields.querySelectorAll(".try__field")].find((each) => each.dataset.field === field.name);
      }

      choose(signature) {
        this.signature = signature;
        for (const fields of this.querySelectorAll(".try__fields")) fields.hidden = this.isRaw || fields.dataset.signature !== signature;
        if (this.isRaw) this.fillRaw();
        this.showSamples();
        this.complain("");
      }

      get isRaw() {
        return !this.raw.hidden;
      }

      toggleRaw() {
        const on = !this.isRaw;
        if (on) this.fillRaw();
        this.raw.hidden = !on;
        this.rawButton.setAttribute("aria-pressed", String(on));
        this.rawButton.textContent = on ? "As a form" : "As JSON";
        for (const fields of this.querySelectorAll(".try__fields")) fields.hidden = on || fields.dataset.signature !== this.signature;
        this.complain("");
      }

      fillRaw() {
        const text = this.raw.querySelector("textarea");
        try {
          text.value = JSON.stringify(this.body());
        } catch {
          const example = this.config.examples.find((each) => each.signature === this.signature);
          text.value = JSON.stringify(example?.request ?? { instances: [] });
        }
      }

      // The predict body that the fields stand for. Throws Wrong.
      body() {
        const form = this.current;
        const body = form.signature === DEFAULT_SIGNATURE ? {} : { signature_name: form.signature };
        const values = form.fields.map((field) => [field, widgets[field.widget].get(this.place(form, field), field)]);
        if (values.length === 1) {
          const [[field, value]] = values;
          if (form.rows) body.instances = field.many ? value : [value];
          else body.inputs = value;
        } else {
          const named = Object.fromEntries(values.map(([field, value]) => [field.name, value]));
          if (form.rows) body.instances = [named];
          else body.inputs = named;
        }
        return body;
      }

      showSamples() {
        const box = this.querySelector(".try__samples");
        const list = box.querySelector("ul");
        list.replaceChildren();
        for (const example of this.config.examples.filter((each) => each.signature === this.signature)) {
          const item = document.createElement("li");
          const button = document.createElement("button");
          button.type = "button";
          button.className = "sample";
          button.title = example.note || example.name;
          const picture = this.thumbnail(example);
          if (picture) {
            button.classList.add("sample--picture");
            button.setAttribute("aria-label", example.name);
            button.append(picture);
          } else button.textContent = example.name;
          button.addEventListener("click", () => this.take(example));
          item.append(button);
          list.append(item);
        }
        box.hidden = !list.children.length;
      }

      thumbnail(example) {
        const field = this.current.fields.length === 1 && this.current.fields[0];
        if (!field || field.widget !== "draw") return null;
        const row = this.rowOf(example.request);
        if (!row) return null;
        const { height, width, black, white } = field.picture;
        return customElements.get("draw-pad").grid([row[field.name]].flat(Infinity), height, width, black, white);
      }

      // The first row of a body as {input: value}, null when it isn't one of this form's.
      rowOf(request) {
        const names = this.current.fields.map((field) => field.name);
        const row = request.instances?.[0];
        if (row !== undefined) {
          if (row && typeof row === "object" && !Array.isArray(row) && !("b64" in row)) return Object.keys(row).every((name) => names.includes(name)) ? row : null;
          if (this.current.fields.some((field) => field.widget === "example")) return null; // serialized: shown as it is
          return names.length === 1 ? { [names[0]]: row } : null;
        }
        const inputs = request.inputs;
        if (inputs === undefined) return null;
        const named = inputs && typeof inputs === "object" && !Array.isArray(inputs) ? inputs : names.length === 1 ? { [names[0]]: inputs } : null;
        if (!named || !this.current.rows) return named;
        return Object.fromEntries(Object.entries(named).map(([name, value]) => [name, Array.isArray(value) ? value[0] : value]));
      }

      // A sample fills the form and is asked at once: one click teaches what the model does.
      take(example) {
        this.complain("");
        const many = this.current.fields.length === 1 && this.current.fields[0].many ? example.request.instances : null;
        const row = this.rowOf(example.request);
        if (this.isRaw || !row) {
          if (!this.isRaw) this.toggleRaw();
          this.raw.querySelector("textarea").value = JSON.stringify(example.request);
        } else
          for (const field of this.current.fields)
            if (field.name in row) widgets[field.widget].set(this.place(this.current, field), many ?? row[field.name]);
        this.ask();
      }

      complain(message) {
        this.error.textContent = message;
        this.error.hidden = !message;
      }

      async ask() {
        if (this.asking) return;
        let body;
        try {
          body = this.isRaw ? this.parseRaw() : this.body();
        } catch (error) {
          if (!(error instanceof Wrong)) throw error;
          this.complain(error.message);
          error.place.focus?.();
          return;
        }
        this.complain("");
        this.asking = true;
        this.view.busy = true;
        const button = this.form.querySelector("[type=submit]");
        button.disabled = true;
        try {
          await this.send(body);
        } catch (error) {
          const reason = error.name === "TimeoutError" ? `No answer within ${TIMEOUT_MS / 1000} s.` : error.message;
          this.view.fail(error instanceof TypeError ? `The gateway at ${new URL(this.config.url).origin} can't be reached from this browser.` : reason);
        } finally {
          this.asking = false;
          this.view.busy = false;
          button.disabled = false;
        }
      }

      parseRaw() {
        const input = this.raw.querySelector("textarea");
        try {
          return JSON.parse(input.value);
        } catch (error) {
          throw new Wrong(input, `The body is not JSON: ${error.message}.`);
        }
      }

      async send(body, again = true) {
        const headers = { "Content-Type": "application/json" };
        const token = await this.token();
        if (token) headers["Daybook-Try-It"] = token;
        const start = performance.now();
        const answer = await fetch(this.config.url, {
          method: "POST",
          mode: "cors",
          credentials: "omit",
          headers,
          body: JSON.stringify(body),
          signal: AbortSignal.timeout(TIMEOUT_MS),
        });
        const text = await answer.text();
        const elapsed = performance.now() - start;
        if (answer.status === 401 && token && again) {
          this.kept = null; // the site's secret changed, or the clock did
          return this.send(body, false);
        }
        const { outputs } = this.config.forms.find((form) => form.signature === (body.signature_name || DEFAULT_SIGNATURE)) ?? { outputs: [] };
        this.view.show({ status: answer.status, text, headers: answer.headers, elapsed, body, outputs, config: this.config });
      }

      // Kept for four of its five minutes.
      async token() {
        if (!this.config.token_url) return null;
        if (this.kept && performance.now() < this.kept.until) return this.kept.token;
        const answer = await fetch(this.config.token_url, {
          method: "POST",
          headers: { "Content-Type": "application/json", "X-CSRFToken": document.querySelector("[name=csrfmiddlewaretoken]")?.value ?? "" },
          body: JSON.stringify({ api: this.config.model }),
        });
        if (answer.redirected || answer.status === 401 || answer.status === 403) throw new Error("Your session has ended. Sign in again to ask from here.");
        if (!answer.ok) throw new Error(`The site gave no token for the call (${answer.status}).`);
        const { token } = await answer.json();
        this.kept = { token, until: performance.now() + 4 * 60_000 };
        return token;
      }
    },
  );
}
