// The wire form of protocol buffers, as much as a tokenizer.model needs: fields of a message one after the other, every
// length checked against what is there. Messages inside are read, and written, by the same functions.
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

/** A message of these fields, in their order; a field without a value is left out. */
export function encodeFields(fields: readonly (Uint8Array | undefined)[]): Uint8Array {
  return new Uint8Array(Buffer.concat(fields.filter((field) => field !== undefined)));
}

/** A whole number; those below 0 in two's complement of 64 bits. */
export function encodeNumber(number: number, value: number): Uint8Array {
  return Uint8Array.of(...varintOf(8 * number), ...varintOf(value));
}

/** A text or a message. */
export function encodeBytes(number: number, value: Uint8Array | string): Uint8Array {
  const bytes = typeof value === "string" ? new TextEncoder().encode(value) : value;
  return encodeFields([Uint8Array.of(...varintOf(8 * number + 2), ...varintOf(bytes.length)), bytes]);
}

export function encodeFloat(number: number, value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setFloat32(0, value, true);
  return Uint8Array.of(...varintOf(8 * number + 5), ...bytes);
}

function varintOf(value: number): readonly number[] {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest >= 128n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  return [...bytes, Number(rest)];
}
