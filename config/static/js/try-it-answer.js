// <answer-view>: draws what a model answered as people would look at it: bars for class scores, figures for numbers, a strip for
// vectors, the raw JSON on demand; where the time went; the seal, which fills when the record is sealed; errors with their text.
// `show({status, text, headers, elapsed, body, config})`, `fail(message)`, `busy = true`.
{
  const SVG = "http://www.w3.org/2000/svg";

  const make = (name, className = "", text = null) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== null) made.textContent = text;
    return made;
  };
  const draw = (name, attributes = {}) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  const isNumber = (value) => typeof value === "number" || ["NaN", "Infinity", "-Infinity"].includes(value);
  const isVector = (value) => Array.isArray(value) && value.length > 0 && value.every(isNumber);
  // [[2.5]] reads as 2.5.
  const bare = (value) => (Array.isArray(value) && value.length === 1 ? bare(value[0]) : value);

  const figure = (value) => {
    if (typeof value !== "number") return String(value);
    if (Number.isInteger(value)) return value.toLocaleString("en-GB");
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e6 ? String(Number(value.toPrecision(6))) : value.toExponential(3);
  };
  const share = (value) => value < 0.0005 ? (value > 0 ? "< 0.1 %" : "0 %") : `${value >= 0.9995 ? 100 : (100 * value).toFixed(1)} %`;
  const milliseconds = (value) => (value < 1 ? `${(1000 * value).toFixed(0)} µs` : `${value.toPrecision(3)} ms`);

  // Values that add up to one read as shares, others as they are.
  const areShares = (values) => values.every((v) => v >= -1e-6 && v <= 1.0001) && Math.abs(values.reduce((a, b) => a + b, 0) - 1) < 0.01;

  // JSON with TensorFlow Serving's bare NaN and Infinity, outside strings.
  const parse = (text) =>
    JSON.parse(text.replace(/"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b/g, (part) => (part[0] === '"' ? part : `"${part}"`)));

  const bars = (pairs) => {
    const shares = areShares(pairs.map(([, value]) => value));
    const top = Math.max(...pairs.map(([, value]) => value));
    const low = Math.min(0, ...pairs.map(([, value]) => value));
    const full = shares ? 1 : Math.max(top - low, 1e-12);
    const list = make("dl", "bars");
    for (const [label, value] of pairs) {
      const row = make("div");
      if (value === top) row.dataset.top = "";
      const name = make("dt", "", label);
      name.title = label;
      const svg = draw("svg", { viewBox: "0 0 100 14", preserveAspectRatio: "none", "aria-hidden": "true" });
      svg.append(draw("rect", { width: Math.max(0, (100 * (value - (shares ? 0 : low))) / full).toFixed(2), height: 14 }));
      const cell = make("dd");
      cell.append(svg);
      row.append(name, cell, make("dd", "num", shares ? share(value) : figure(value)));
      list.append(row);
    }
    return list;
  };

  const best = (pairs) => pairs.reduce((a, b) => (b[1] > a[1] ? b : a));

  // A vector as a strip of cells, dark where it is large.
  const strip = (values) => {
    const numbers = values.map(Number);
    const finite = numbers.filter(Number.isFinite);
    const [low, high] = [Math.min(...finite), Math.max(...finite)];
    const box = make("div", "strip");
    const svg = draw("svg", { viewBox: `0 0 ${numbers.length} 1`, preserveAspectRatio: "none", "aria-hidden": "true", "shape-rendering": "crispEdges" });
    numbers.forEach((value, x) => {
      const ink = Number.isFinite(value) ? (value - low) / (high - low || 1) : 0;
      svg.append(draw("rect", { x, y: 0, width: 1, height: 1, "fill-opacity": ink.toFixed(3) }));
    });
    box.append(svg, make("p", "note", `${numbers.length} numbers from ${figure(low)} to ${figure(high)}`));
    return box;
  };

  customElements.define(
    "answer-view",
    class extends HTMLElement {
      set busy(on) {
        this.toggleAttribute("data-busy", on);
        this.setAttribute("aria-busy", String(on));
      }

      fail(message) {
        clearTimeout(this.timer);
        const notice = make("div", "notice");
        notice.dataset.kind = "fail";
        notice.append(make("p", "", message));
        this.replaceChildren(notice);
      }

      show({ status, text, headers, elapsed, body, outputs, config }) {
        clearTimeout(this.timer);
        this.config = config;
        this.outputs = new Map(outputs.map((output) => [output.name, output]));
        const parts = [];
        let answer;
        try {
          answer = parse(text);
        } catch {
          answer = undefined;
        }
        if (status === 200 && answer) parts.push(this.drawn(answer, body));
        else parts.push(this.refusal(status, answer?.error ?? text, headers));
        parts.push(this.record(headers));
        const timing = this.timing(headers.get("Server-Timing"), elapsed);
        if (timing) parts.push(timing);
        if (answer) parts.push(this.json(answer, text));
        this.replaceChildren(...parts);
      }

      refusal(status, error, headers) {
        const notice = make("div", "notice");
        notice.dataset.kind = "fail";
        notice.append(make("strong", "", String(status)), make("p", "mono", error || "no text"));
        const wait = headers.get("Retry-After");
        if (wait) notice.append(make("p", "small", `Ask again in ${wait} s.`));
        return notice;
      }

      drawn(answer, body) {
        const box = make("div", "answer");
        if (Array.isArray(answer.predictions)) {
          const rows = answer.predictions;
          box.append(rows.length === 1 ? this.whole(rows[0]) : this.several(rows, body?.instances));
        } else if ("outputs" in answer) box.append(this.whole(answer.outputs));
        else box.append(this.raw(answer));
        return box;
      }

      // One row, large. Several outputs stand under each other with their names.
      whole(row) {
        const box = make("div", "answer__row");
        if (row !== null && typeof row === "object" && !Array.isArray(row) && !("b64" in row)) {
          const pairs = this.scored(row);
          if (pairs) {
            box.append(this.headline(pairs), bars(this.ordered(pairs)));
            return box;
          }
          const winner = this.winner(row);
          for (const [name, value] of Object.entries(row)) {
            if (winner && name !== winner.name && winner.says(bare(value), this.outputs.get(name))) continue; // the headline says it
            const part = make("div", "answer__output");
            part.append(make("p", "label", name), this.value(value, this.outputs.get(name)));
            box.append(part);
          }
          return box;
        }
        box.append(this.value(row, this.outputs.size === 1 ? [...this.outputs.values()][0] : undefined));
        return box;
      }

      // The output that scores the classes, and whether another output only repeats which class won.
      winner(row) {
        for (const [name, value] of Object.entries(row)) {
          const pairs = this.named(bare(value));
          if (!pairs) continue;
          const [label] = best(pairs);
          const place = this.config.class_names.indexOf(label);
          return { name, says: (other, output) => output?.is_scalar && (other === label || (output.kind === "integer" && other === place)) };
        }
        return null;
      }

      value(value, output) {
        value = bare(value);
        const names = this.config.class_names;
        if (output?.is_scalar && output.kind === "integer" && names[value] !== undefined) {
          const line = make("p", "answer__value", names[value]);
          line.append(" ", make("small", "", figure(value)));
          return line;
        }
        if (output?.is_scalar && output.kind === "float" && value >= 0 && value <= 1 && /score|prob|risk|confidence/i.test(output.name)) {
          const box = make("div", "stack");
          box.append(make("p", "answer__value", figure(value)), this.gauge(value));
          return box;
        }
        const pairs = this.named(value);
        if (pairs) {
          const box = make("div", "stack");
          box.append(this.headline(pairs), bars(this.ordered(pairs)));
          return box;
        }
        if (isVector(value)) return value.length <= 12 ? make("p", "answer__numbers", value.map(figure).join("  ")) : strip(value);
        if (isNumber(value) || typeof value === "boolean") return make("p", "answer__value", figure(value));
        if (typeof value === "string") return make("p", value.length > 60 ? "answer__text" : "answer__value", value);
        if (value && typeof value === "object" && "b64" in value) return make("p", "mono small", `${Math.floor((value.b64.length * 3) / 4)} bytes, base64`);
        return this.raw(value);
      }

      // A share of one as a bar of its own.
      gauge(value) {
        const svg = draw("svg", { viewBox: "0 0 100 14", preserveAspectRatio: "none", class: "gauge", "aria-hidden": "true" });
        svg.append(draw("rect", { width: 100, height: 14 }), draw("rect", { width: (100 * value).toFixed(2), height: 14, "data-part": "value" }));
        return svg;
      }

      several(rows, instances) {
        const table = make("table", "table table--dense");
        const head = make("tr");
        for (const name of instances ? ["asked", "answered"] : ["row", "answered"]) head.append(make("th", "", name));
        table.append(make("thead"), make("tbody"));
        table.tHead.append(head);
        rows.slice(0, 100).forEach((row, index) => {
          const line = make("tr");
          const asked = instances ? this.short(instances[index]) : String(index + 1);
          line.append(make("td", "mono cut", asked), make("td", "answer__short", this.short(row)));
          table.tBodies[0].append(line);
        });
        const frame = make("div", "table-frame");
        frame.append(table);
        if (rows.length > 100) frame.append(make("p", "note", `and ${rows.length - 100} more in the JSON`));
        return frame;
      }

      short(value) {
        value = bare(value);
        const pairs = (value && typeof value === "object" && !Array.isArray(value) && this.scored(value)) || this.named(value);
        if (pairs) {
          const [label, score] = best(pairs);
          return areShares(pairs.map(([, v]) => v)) ? `${label}, ${share(score)}` : `${label}, ${figure(score)}`;
        }
        if (isNumber(value)) return figure(value);
        if (typeof value === "string") return value;
        if (value && typeof value === "object" && !Array.isArray(value))
          return Object.entries(value)
            .map(([name, each]) => `${name} ${this.short(each)}`)
            .join(", ");
        const text = JSON.stringify(value);
        return text.length > 60 ? `${text.slice(0, 58)}…` : text;
      }

      // Scores with the class names that the entry states.
      named(value) {
        const names = this.config.class_names;
        if (!isVector(value) || names.length < 2 || value.length !== names.length) return null;
        return names.map((name, index) => [name, Number(value[index])]);
      }

      // {"classes": [...], "scores": [...]}, as classify signatures answer.
      scored(row) {
        const classes = bare(row.classes);
        const scores = bare(row.scores);
        if (!Array.isArray(classes) || !isVector(scores) || classes.length !== scores.length) return null;
        return classes.map((name, index) => [String(name), Number(scores[index])]);
      }

      // Few classes keep their order, so that the eye learns it; of many the best ten.
      ordered(pairs) {
        return pairs.length <= 12 ? pairs : [...pairs].sort((a, b) => b[1] - a[1]).slice(0, 10);
      }

      headline(pairs) {
        const [label, score] = best(pairs);
        const line = make("p", "answer__value", label);
        line.append(" ", make("small", "", areShares(pairs.map(([, v]) => v)) ? share(score) : figure(score)));
        return line;
      }

      raw(value) {
        const view = make("json-view", "json");
        view.append(make("pre", "", JSON.stringify(value, null, 2)));
        return view;
      }

      json(answer, text) {
        const fold = make("details", "answer__json");
        fold.append(make("summary", "", "The answer as JSON"));
        fold.addEventListener("toggle", () => fold.append(this.raw(answer)), { once: true });
        return fold;
      }

      record(headers) {
        const id = headers.get("Daybook-Record");
        const line = make("p", "answer__record row");
        if (!id) {
          line.append(make("span", "quiet", "No record id came with this answer."));
          return line;
        }
        const seal = draw("svg", { class: "seal", role: "img", "data-state": "durable" });
        const words = make("span", "", "Durable in the daybook");
        const title = draw("title");
        const use = draw("use", { href: "#m-seal-durable" });
        title.textContent = "Durable, not yet sealed";
        seal.append(title, use);
        line.append(seal, words);
        if (this.config.record_url) {
          const link = make("a", "", "See it in the daybook");
          link.href = `${this.config.record_url}${id}`;
          line.append(link);
        } else {
          const digest = make("span", "digest");
          digest.append(`record ${id.slice(0, 8)}…${id.slice(-4)}`);
          const copy = make("copy-button");
          copy.dataset.text = id;
          copy.dataset.what = "record id";
          digest.append(copy);
          line.append(digest);
        }
        this.waitForSeal(id, () => {
          seal.dataset.state = "sealed";
          title.textContent = "Sealed";
          use.setAttribute("href", "#m-seal-sealed");
          words.textContent = "Sealed in the log";
        });
        return line;
      }

      // The log answers 202 until the record is sealed, usually within a second.
      waitForSeal(id, done, tries = 12) {
        this.timer = setTimeout(async () => {
          if (!this.isConnected) return;
          let status = 0;
          try {
            status = (await fetch(`${this.config.proof_url}${id}`, { headers: { Accept: "text/plain" } })).status;
          } catch {
            return;
          }
          if (status === 200) done();
          else if ((status === 202 || status === 404) && tries > 1) this.waitForSeal(id, done, tries - 1);
        }, 700);
      }

      timing(header, elapsed) {
        const labels = { queue: "queue", batch: "batch", model: "model", commit: "record", record: "record" };
        const parts = [];
        for (const item of (header ?? "").split(",")) {
          const name = item.split(";")[0].trim();
          const duration = Number(/dur=([0-9.]+)/.exec(item)?.[1]);
          if (labels[name] && Number.isFinite(duration)) parts.push([labels[name], duration]);
        }
        const known = parts.reduce((sum, [, duration]) => sum + duration, 0);
        const rest = Math.max(0, elapsed - known);
        parts.push(["way", rest]);
        const total = known + rest || 1;
        const box = make("figure", "timing");
        box.setAttribute("aria-label", "Where the time went");
        const svg = draw("svg", { viewBox: "0 0 100 16", preserveAspectRatio: "none", "aria-hidden": "true" });
        const list = make("dl");
        let start = 0;
        for (const [name, duration] of parts) {
          const width = (100 * duration) / total;
          svg.append(draw("rect", { "data-part": name, x: start.toFixed(3), width: width.toFixed(3), height: 16 }));
          start += width;
          const item = make("div");
          item.dataset.part = name;
          item.append(make("dt", "", name === "way" ? "network and door" : name), make("dd", "", milliseconds(duration)));
          list.append(item);
        }
        box.append(svg, list);
        return box;
      }
    },
  );
}
