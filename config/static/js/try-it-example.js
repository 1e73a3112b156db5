// <example-input><textarea></textarea></example-input>: a tf.Example typed as a JSON object of features. `value` is the serialized
// message as base64: numbers become float_list, "3n" int64_list, other text bytes_list. Throws when it can't be one.
// Source: tensorflow/core/example/example.proto and feature.proto; the encoding is protobuf's wire format.
{
  const varint = (value) => {
    const bytes = [];
    let rest = BigInt.asUintN(64, BigInt(value));
    do {
      bytes.push(Number(rest & 127n) | (rest > 127n ? 128 : 0));
      rest >>= 7n;
    } while (rest);
    return bytes;
  };
  // A length-delimited field.
  const field = (number, bytes) => [...varint((number << 3) | 2), ...varint(bytes.length), ...bytes];
  const utf8 = (text) => [...new TextEncoder().encode(text)];

  const isInteger = (value) => typeof value === "string" && /^-?\d+n$/.test(value);

  const feature = (name, given) => {
    const values = [given].flat(Infinity);
    if (values.every((value) => typeof value === "number")) return field(2, field(1, [...new Uint8Array(new Float32Array(values).buffer)]));
    if (values.every(isInteger)) return field(3, field(1, values.flatMap((value) => varint(value.slice(0, -1)))));
    if (values.every((value) => typeof value === "string")) return field(1, values.flatMap((value) => field(1, utf8(value))));
    throw new Error(`the feature “${name}” mixes kinds; expected all numbers or all text`);
  };

  customElements.define(
    "example-input",
    class extends HTMLElement {
      get value() {
        let features;
        try {
          features = JSON.parse(this.querySelector("textarea").value);
        } catch (error) {
          throw new Error(`not JSON (${error.message})`);
        }
        if (features === null || typeof features !== "object" || Array.isArray(features)) throw new Error("expected a JSON object of features");
        const entries = Object.entries(features).flatMap(([name, given]) => field(1, [...field(1, utf8(name)), ...field(2, feature(name, given))]));
        return btoa(String.fromCharCode(...field(1, entries)));
      }

      set features(features) {
        const lines = Object.entries(features).map(([name, value]) => `  ${JSON.stringify(name)}: ${JSON.stringify(value.length === 1 ? value[0] : value)}`);
        this.querySelector("textarea").value = `{\n${lines.join(",\n")}\n}`;
      }
    },
  );
}
