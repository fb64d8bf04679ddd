// GGUF headers: what is written is read back, an independent reading agrees, and every forged header is refused with a
// code of its own before anything large is allocated.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { MergeyardError } from "../../../core/error.ts";
import { type GgufHeader, readGgufHeader } from "../../../core/formats/gguf/gguf.ts";
import { GGUF_TYPES, type GgufMetadata, type GgufType, ggufTypeOf } from "../../../core/formats/gguf/type-codes.ts";
import { encodeGgufHeader, type GgufTensorSpec } from "../../../core/formats/gguf/write.ts";
import { BLOCK_SCHEME_IDS, BLOCK_SCHEMES } from "../../../core/schemes/registry.ts";

const METADATA: GgufMetadata = new Map([
  ["general.architecture", { kind: "string", value: "llama" }],
  ["a.u8", { kind: "u8", value: 255 }],
  ["a.i8", { kind: "i8", value: -1 }],
  ["a.u16", { kind: "u16", value: 65535 }],
  ["a.i16", { kind: "i16", value: -2 }],
  ["a.u32", { kind: "u32", value: 4294967295 }],
  ["a.i32", { kind: "i32", value: -3 }],
  ["a.f32", { kind: "f32", value: 0.5 }],
  ["a.f64", { kind: "f64", value: 0.1 }],
  ["a.u64", { kind: "u64", value: 2n ** 64n - 1n }],
  ["a.i64", { kind: "i64", value: -4n }],
  ["a.bool", { kind: "bool", value: true }],
  [
    "a.words",
    {
      kind: "array",
      element: "string",
      values: ["", "é", "x".repeat(70_000)].map((value) => ({ kind: "string", value })),
    },
  ],
] satisfies [string, GgufMetadata extends ReadonlyMap<string, infer V> ? V : never][]);

function typeOf(id: number): GgufType {
  const type = GGUF_TYPES.get(id);
  assert.ok(type !== undefined);
  return type;
}

const SPECS: readonly GgufTensorSpec[] = [
  { name: "norm.weight", shape: [3], type: typeOf(0) },
  { name: "a.weight", shape: [5, 256], type: typeOf(12) },
  { name: "b.weight", shape: [2, 3, 64], type: typeOf(2) },
];

function fileOf(specs: readonly GgufTensorSpec[] = SPECS, metadata: GgufMetadata = METADATA): Uint8Array {
  const { header, fileBytes } = encodeGgufHeader(metadata, specs);
  const bytes = new Uint8Array(fileBytes);
  bytes.set(header);
  return bytes;
}

async function parse(bytes: Uint8Array, stated = bytes.length): Promise<GgufHeader> {
  const read = async (offset: number, count: number) => bytes.slice(offset, offset + count);
  return readGgufHeader(read, { name: "m.gguf", bytes: stated });
}

/** A file by hand: counts, then the given bytes, then zeros. */
function forged(tensors: bigint, entries: bigint, body: readonly number[], padding = 4096): Uint8Array {
  const bytes = new Uint8Array(24 + body.length + padding);
  const view = new DataView(bytes.buffer);
  bytes.set(new TextEncoder().encode("GGUF"));
  view.setUint32(4, 3, true);
  view.setBigUint64(8, tensors, true);
  view.setBigUint64(16, entries, true);
  bytes.set(body, 24);
  return bytes;
}

function u32(value: number): number[] {
  return [...new Uint8Array(Uint32Array.of(value).buffer)];
}

function u64(value: bigint): number[] {
  return [...new Uint8Array(BigUint64Array.of(value).buffer)];
}

function text(value: string): number[] {
  const bytes = new TextEncoder().encode(value);
  return [...u64(BigInt(bytes.length)), ...bytes];
}

function info(name: string, axes: readonly bigint[], type: number, offset: bigint): number[] {
  return [...text(name), ...u32(axes.length), ...axes.flatMap(u64), ...u32(type), ...u64(offset)];
}

suite("gguf", () => {
  test("metadata of every kind and every tensor's place come back", async () => {
    const encoded = encodeGgufHeader(METADATA, SPECS);
    const header = await parse(fileOf());
    assert.deepEqual([...header.metadata], [...METADATA]);
    assert.deepEqual(header.tensors, encoded.tensors);
    assert.equal(header.dataOffset, encoded.header.length);
    assert.deepEqual(
      header.tensors.map(({ offset, bytes }) => [offset - header.dataOffset, bytes]),
      [
        [0, 12],
        [32, 5 * 144],
        [768, 6 * 2 * 18],
      ],
    );
    assert.equal(encoded.fileBytes, header.dataOffset + 768 + 224);
  });

  test("an independent reading of the bytes finds the fastest axis first and the types by number", () => {
    const bytes = Buffer.from(fileOf(SPECS, new Map([["k", { kind: "u32", value: 7 }]])));
    assert.equal(bytes.toString("latin1", 0, 4), "GGUF");
    assert.deepEqual([bytes.readUInt32LE(4), bytes.readBigUInt64LE(8), bytes.readBigUInt64LE(16)], [3, 3n, 1n]);
    // Key of one byte, kind 4, value 7; then the first tensor: name of 11 bytes, one axis of 3, type 0, offset 0.
    assert.deepEqual([...bytes.subarray(24, 41)], [...text("k"), ...u32(4), ...u32(7)]);
    const first = info("norm.weight", [3n], 0, 0n);
    assert.deepEqual([...bytes.subarray(41, 41 + first.length)], first);
    const second = info("a.weight", [256n, 5n], 12, 32n);
    const at = 41 + first.length;
    assert.deepEqual([...bytes.subarray(at, at + second.length)], second);
    const third = info("b.weight", [64n, 3n, 2n], 2, 768n);
    assert.deepEqual([...bytes.subarray(at + second.length, at + second.length + third.length)], third);
  });

  test("a header longer than the first read is read on", async () => {
    const values = Array.from({ length: 90_000 }, (_, i) => ({ kind: "string" as const, value: `token ${i} ▁` }));
    const metadata: GgufMetadata = new Map([["tokens", { kind: "array", element: "string", values }]]);
    const found = (await parse(fileOf(SPECS, metadata))).metadata.get("tokens");
    assert.equal(found?.kind === "array" ? found.values.length : 0, 90_000);
  });

  test("every scheme but none of the others is a type whose block agrees", () => {
    for (const id of BLOCK_SCHEME_IDS) {
      const type = ggufTypeOf(id);
      const { blockElements, blockBytes } = BLOCK_SCHEMES[id];
      assert.deepEqual([type?.blockElements, type?.blockBytes], [blockElements, blockBytes], id);
      assert.equal(type?.name.toLowerCase(), id);
    }
  });

  const long = 2n ** 40n;
  const refused: readonly (readonly [string, string, Uint8Array])[] = [
    ["another kind of file", "GgufNotRecognised", new TextEncoder().encode("PK\x03\x04 and more")],
    ["version 2", "GgufVersionUnsupported", fileOf().with(4, 2)],
    ["a file of twenty bytes", "GgufTruncated", fileOf().slice(0, 20)],
    ["a header cut short", "GgufTruncated", fileOf().slice(0, 300)],
    ["data cut short", "GgufTruncated", fileOf().slice(0, -64)],
    ["more tensors than the file has bytes for", "GgufTruncated", forged(900_000n, 0n, [])],
    ["a count beyond every limit", "GgufTooLarge", forged(2n ** 63n, 0n, [])],
    ["metadata entries beyond the limit", "GgufTooLarge", forged(0n, long, [])],
    ["a string beyond the limit", "GgufTooLarge", forged(0n, 1n, u64(2n ** 62n))],
    ["an array beyond the limit", "GgufTooLarge", forged(0n, 1n, [...text("a"), ...u32(9), ...u32(4), ...u64(long)])],
    ["a string longer than the file", "GgufTruncated", forged(0n, 1n, u64(100_000n))],
    [
      "a key twice",
      "GgufMetadataInvalid",
      forged(
        0n,
        2n,
        [1, 2].flatMap(() => [...text("a"), ...u32(0), 1]),
      ),
    ],
    ["a value of no known kind", "GgufMetadataInvalid", forged(0n, 1n, [...text("a"), ...u32(13)])],
    ["an empty array of no known kind", "GgufMetadataInvalid", forged(0n, 1n, [...text("a"), ...u32(9), ...u32(77)])],
    ["a boolean of two", "GgufMetadataInvalid", forged(0n, 1n, [...text("a"), ...u32(7), 2])],
    ["a key that is not UTF-8", "GgufMetadataInvalid", forged(0n, 1n, [...u64(1n), 0xff])],
    [
      "arrays in arrays in arrays",
      "GgufMetadataInvalid",
      forged(0n, 1n, [...text("a"), ...u32(9), ...Array.from({ length: 9 }, () => [...u32(9), ...u64(1n)]).flat()]),
    ],
    [
      "an alignment of no multiple of 8",
      "GgufMetadataInvalid",
      forged(0n, 1n, [...text("general.alignment"), ...u32(4), ...u32(7)]),
    ],
    ["five axes", "GgufTensorInvalid", forged(1n, 0n, info("t", [1n, 1n, 1n, 1n, 1n], 0, 0n))],
    ["a type of no known number", "GgufTensorInvalid", forged(1n, 0n, info("t", [32n], 5, 0n))],
    ["rows that are no whole blocks", "GgufTensorInvalid", forged(1n, 0n, info("t", [33n], 8, 0n))],
    ["an axis beyond 2^53", "GgufTensorInvalid", forged(1n, 0n, info("t", [0n, 2n ** 60n], 0, 0n))],
    ["an unaligned offset", "GgufTensorInvalid", forged(1n, 0n, info("t", [4n], 0, 8n))],
    ["a tensor past the end", "GgufTruncated", forged(1n, 0n, info("t", [4n], 0, 2n ** 62n))],
    ["a size that wraps", "GgufTruncated", forged(1n, 0n, info("t", [2n ** 40n, 2n ** 40n], 0, 0n))],
    ["a name twice", "GgufTensorInvalid", forged(2n, 0n, [...info("t", [4n], 0, 0n), ...info("t", [4n], 0, 32n)])],
    ["overlap", "GgufTensorInvalid", forged(2n, 0n, [...info("t", [64n], 0, 0n), ...info("u", [64n], 0, 32n)])],
  ];
  for (const [what, code, bytes] of refused) {
    test(`${what} is refused`, async () => {
      await assert.rejects(parse(bytes), { code });
    });
  }

  test("any cut before the last weight is refused with a code, never read past", async () => {
    const whole = fileOf(SPECS.slice(0, 1), new Map([["k", { kind: "string", value: "value" }]]));
    const [tensor] = (await parse(whole)).tensors;
    const end = (tensor?.offset ?? 0) + (tensor?.bytes ?? 0);
    for (let length = 0; length < end; length++) {
      await assert.rejects(parse(whole.slice(0, length)), MergeyardError);
    }
  });

  test("a name of more than 63 bytes, a name twice and part of a block are not written", () => {
    const write = (specs: readonly GgufTensorSpec[]) => () => encodeGgufHeader(new Map(), specs);
    const tensor = { name: "t", shape: [32], type: typeOf(8) };
    const isInvalid = { code: "GgufTensorInvalid" };
    assert.throws(write([{ ...tensor, name: "n".repeat(64) }]), isInvalid);
    assert.throws(write([tensor, tensor]), isInvalid);
    assert.throws(write([{ ...tensor, shape: [32, 31] }]), isInvalid);
    assert.throws(write([{ ...tensor, shape: [1, 1, 1, 1, 32] }]), isInvalid);
  });
});
