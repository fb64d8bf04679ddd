// The wire form of protocol buffers, as much as a tokenizer.model needs: fields of a message one after the other, every
// length checked against what is there. Messages inside are read by the same function from their bytes.
// Source: protobuf.dev, "Encoding".

/** A field: a whole number, four or eight bytes, or the bytes of a text or message. */
export type ProtoField = {
  readonly number: number;
  /** Of varints; 0 for others. Beyond 2^53 only its size counts. */
  readonly value: number;
  readonly bytes: Uint8Array;
  /** Where it begins in the message. */
  readonly offset: number;
};

/** What is wrong and where; the caller makes the typed error of it. */
type Refuse = (offset: number, found: string) => Error;

const VARINT_BYTES = 10;
const FIXED: Readonly<Record<number, number>> = { 1: 8, 5: 4 };

/** The fields of a message in their order; throws what `refuse` makes of a malformed one. */
export function* readFields(message: Uint8Array, refuse: Refuse): Generator<ProtoField> {
  let at = 0;
  const varint = (): number => {
    const start = at;
    let [value, scale] = [0, 1];
    for (;;) {
      const byte = message[at];
      if (byte === undefined) throw refuse(start, "a number beyond the end");
      if (at - start === VARINT_BYTES) throw refuse(start, "a number of more than ten bytes");
      at += 1;
      value += (byte & 127) * scale;
      scale *= 128;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const offset = at;
    const tag = varint();
    const [number, wire] = [Math.floor(tag / 8), tag % 8];
    if (number < 1 || number >= 2 ** 29) throw refuse(offset, `field ${number}`);
    const value = wire === 0 ? varint() : 0;
    const length = wire === 0 ? 0 : wire === 2 ? varint() : FIXED[wire];
    if (length === undefined) throw refuse(offset, `wire type ${wire}`);
    if (length > message.length - at) throw refuse(offset, `${length} bytes beyond the end`);
    yield { number, value, bytes: message.subarray(at, at + length), offset };
    at += length;
  }
}
