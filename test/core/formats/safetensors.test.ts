// The safetensors header: what the writer gives, what the reader gives back, how much is read, and the refusals that
// the golden set does not provoke.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import fc from "fast-check";
import { digestBytes } from "../../../core/artifact/digest.ts";
import type { CheckpointFile } from "../../../core/checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../../../core/error.ts";
import {
  encodeSafetensorsHeader,
  parseSafetensorsHeader,
  readSafetensorsHeader,
  type TensorSpec,
} from "../../../core/formats/safetensors/safetensors.ts";
import { JSON_LIMITS, SAFETENSORS_LIMITS } from "../../../core/limits.ts";
import { DTYPE_BITS, DTYPES, tensorBytes } from "../../../core/tensor.ts";

const FILE: CheckpointFile = { name: "model.safetensors", bytes: 0 };

/** A header around a JSON text, for a file whose data has `dataBytes` bytes. */
function frame(json: string, dataBytes = 0): { header: Uint8Array; file: CheckpointFile } {
  const text = new TextEncoder().encode(json);
  const header = new Uint8Array(8 + text.length);
  new DataView(header.buffer).setBigUint64(0, BigInt(text.length), true);
  header.set(text, 8);
  return { header, file: { ...FILE, bytes: header.length + dataBytes } };
}

function parseJson(json: string, dataBytes = 0) {
  const { header, file } = frame(json, dataBytes);
  return parseSafetensorsHeader(header, file);
}

function errorOf(work: () => unknown): MergeyardError {
  try {
    work();
  } catch (error) {
    if (error instanceof MergeyardError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

const ENTRY = '{"dtype":"U8","shape":[2],"data_offsets":[0,2]}';

suite("the safetensors writer", () => {
  test("writes wide dtypes first, then by name, compact and padded to 8", () => {
    const { header, tensors, fileBytes } = encodeSafetensorsHeader(
      [
        { name: "b", dtype: "F16", shape: [2] },
        { name: "c", dtype: "F32", shape: [] },
        { name: "a", dtype: "F16", shape: [0, 3] },
        { name: "d", dtype: "BF16", shape: [1] },
      ],
      new Map([
        ["z", 'q"'],
        ["format", "pt"],
      ]),
    );
    const text = new TextDecoder().decode(header.subarray(8));
    const json =
      '{"__metadata__":{"format":"pt","z":"q\\""},"c":{"dtype":"F32","shape":[],"data_offsets":[0,4]},' +
      '"d":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]},"a":{"dtype":"F16","shape":[0,3],"data_offsets":[6,6]},' +
      '"b":{"dtype":"F16","shape":[2],"data_offsets":[6,10]}}';
    assert.equal(text.trimEnd(), json);
    assert.equal(header.length % 8, 0);
    assert.ok(text.length - json.length < 8);
    assert.equal(new DataView(header.buffer).getBigUint64(0, true), BigInt(header.length - 8));
    assert.deepEqual(
      tensors.map(({ name, offset, bytes }) => [name, offset, bytes]),
      [
        ["c", 0, 4],
        ["d", 4, 2],
        ["a", 6, 0],
        ["b", 6, 4],
      ],
    );
    assert.equal(fileBytes, header.length + 10);
  });

  test("orders names by UTF-8, not by UTF-16", () => {
    const specs = ["\u{10000}", "\uffff", "a"].map((name) => ({ name, dtype: "U8" as const, shape: [1] }));
    const names = encodeSafetensorsHeader(specs).tensors.map(({ name }) => name);
    assert.deepEqual(names, ["a", "\uffff", "\u{10000}"]);
  });

  test("gives {} padded to 8 for no tensors", () => {
    const { header, fileBytes } = encodeSafetensorsHeader([]);
    assert.equal(new TextDecoder().decode(header.subarray(8)), "{}      ");
    assert.equal(fileBytes, 16);
  });

  test("refuses what the format cannot hold", () => {
    const spec = (name: string): TensorSpec => ({ name, dtype: "U8", shape: [1] });
    const cases: readonly (readonly [readonly TensorSpec[], ErrorCode])[] = [
      [[spec("a"), spec("a")], "SafetensorsNameRepeated"],
      [[spec("__metadata__")], "SafetensorsNameInvalid"],
      [[spec("\ud800")], "SafetensorsNameInvalid"],
      [[spec("x".repeat(SAFETENSORS_LIMITS.nameCharacters + 1))], "SafetensorsNameInvalid"],
    ];
    for (const [specs, code] of cases) assert.throws(() => encodeSafetensorsHeader(specs), { code });
    const large = new Map([["note", "x".repeat(SAFETENSORS_LIMITS.headerBytes)]]);
    assert.throws(() => encodeSafetensorsHeader([], large), { code: "SafetensorsHeaderTooLarge" });
  });

  test("writes the bytes that other writers wrote for the same tensors", () => {
    const files = globSync(join(import.meta.dirname, "../../../examples/models/**/*.safetensors"));
    assert.ok(files.length > 0, "the example models are there");
    for (const path of files) {
      const bytes = readFileSync(path);
      const length = Number(bytes.readBigUInt64LE(0));
      const stated: Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }> = JSON.parse(
        bytes.subarray(8, 8 + length).toString(),
      );
      const parsed = parseSafetensorsHeader(bytes, { name: path, bytes: bytes.length });
      assert.deepEqual(
        parsed.tensors.map(({ name }) => name).sort(),
        Object.keys(stated)
          .filter((name) => name !== "__metadata__")
          .sort(),
      );
      for (const { name, dtype, shape, ranges } of parsed.tensors) {
        const [begin, end] = stated[name]?.data_offsets ?? [0, 0];
        assert.deepEqual(ranges, [{ file: path, offset: 8 + length + begin, bytes: end - begin }]);
        assert.deepEqual([dtype, shape], [stated[name]?.dtype, stated[name]?.shape]);
      }
      const again = encodeSafetensorsHeader(parsed.tensors, parsed.metadata);
      assert.deepEqual(Buffer.from(again.header), bytes.subarray(0, 8 + length));
      assert.equal(again.fileBytes, bytes.length);
    }
  });
});

const dtype = fc.constantFrom(...DTYPES);
const name = fc
  .oneof(fc.string({ unit: "binary", maxLength: 12 }), fc.constantFrom("__proto__", "constructor", "", 'a"\\/b'))
  .filter((text) => text !== "__metadata__" && text.isWellFormed() && !/\p{Cc}/u.test(text));
const spec = fc
  .record({ name, dtype, shape: fc.array(fc.nat({ max: 5 }), { maxLength: 4 }) })
  .map((each) => (DTYPE_BITS[each.dtype] % 8 === 0 ? each : { ...each, shape: [...each.shape, 4] }));
const specs = fc.uniqueArray(spec, { selector: (each) => each.name, maxLength: 20 });

suite("the safetensors reader", () => {
  test("gives back what was written, at offsets that tile the file", () => {
    fc.assert(
      fc.property(specs, fc.dictionary(name, fc.string({ unit: "grapheme" })), (tensors, entries) => {
        const metadata = new Map(Object.entries(entries));
        const written = encodeSafetensorsHeader(tensors, metadata);
        const read = parseSafetensorsHeader(written.header, { ...FILE, bytes: written.fileBytes });
        assert.deepEqual(read.metadata, metadata);
        assert.equal(read.headerBytes, written.header.length);
        assert.equal(read.headerDigest, digestBytes(written.header));
        assert.deepEqual(
          read.tensors,
          written.tensors.map(({ offset, bytes, ...tensor }) => ({
            ...tensor,
            ranges: [{ file: FILE.name, offset: written.header.length + offset, bytes }],
          })),
        );
        const total = tensors.reduce((sum, each) => sum + tensorBytes(each.dtype, each.shape), 0);
        assert.equal(written.fileBytes, written.header.length + total);
      }),
      { seed: 11, numRuns: 300 },
    );
  });

  test("needs one read for an ordinary header and never asks beyond the file", async () => {
    const { header, fileBytes } = encodeSafetensorsHeader([{ name: "a", dtype: "U8", shape: [3_000_000] }]);
    const content = new Uint8Array(fileBytes);
    content.set(header);
    const reads: [number, number][] = [];
    const read = async (offset: number, bytes: number) => {
      reads.push([offset, bytes]);
      return content.slice(offset, offset + bytes);
    };
    await readSafetensorsHeader(read, { ...FILE, bytes: fileBytes });
    assert.deepEqual(reads, [[0, 8 + 2 ** 20]]);
  });

  test("reads the rest of a header larger than 1 MiB, once", async () => {
    const many = Array.from({ length: 20_000 }, (_, index) => ({
      name: `layers.${index}.weight`,
      dtype: "BF16" as const,
      shape: [2],
    }));
    const { header, fileBytes } = encodeSafetensorsHeader(many);
    assert.ok(header.length > 2 ** 20 + 8);
    const content = new Uint8Array(fileBytes);
    content.set(header);
    const reads: [number, number][] = [];
    const read = async (offset: number, bytes: number) => {
      reads.push([offset, bytes]);
      return content.slice(offset, offset + bytes);
    };
    const parsed = await readSafetensorsHeader(read, { ...FILE, bytes: fileBytes });
    assert.equal(parsed.tensors.length, many.length);
    const guess = 2 ** 20 + 8;
    assert.deepEqual(reads, [
      [0, guess],
      [guess, header.length - guess],
    ]);
  });

  test("keeps the header's order among tensors without bytes at one offset", () => {
    const entry = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}';
    const { tensors } = parseJson(`{"z":${entry},"a":${entry},"m":${entry}}`);
    assert.deepEqual(
      tensors.map((tensor) => tensor.name),
      ["z", "a", "m"],
    );
  });

  test("skips fields it does not know and takes null metadata, as the reference does", () => {
    const entry = ENTRY.replace("{", '{"note":{"a":[1.5,null]},');
    assert.deepEqual(parseJson(`{"__metadata__":null,"a":${entry}}\n\t `, 2).metadata, new Map());
  });

  test("refuses each fault of form with its own code, naming tensor and field", () => {
    const nested = "[".repeat(JSON_LIMITS.depth);
    const rank = Array(SAFETENSORS_LIMITS.rank + 1).fill(1);
    const cases: readonly (readonly [string, ErrorCode, string | undefined, string | undefined])[] = [
      [`{"a":{"x":${nested}`, "SafetensorsHeaderTooDeep", "a", "x"],
      [`{"a\\u0000b":${ENTRY}}`, "SafetensorsNameInvalid", "a\0b", undefined],
      [`{"${"x".repeat(1025)}":${ENTRY}}`, "SafetensorsNameInvalid", "x".repeat(200), undefined],
      [`{"a":{"dtype":"U8","shape":[${rank}]`, "SafetensorsRankTooLarge", "a", "shape"],
      [`{"a":7}`, "SafetensorsFieldInvalid", "a", undefined],
      [`{"a":["U8",[2],[0,2]]}`, "SafetensorsFieldInvalid", "a", undefined],
      [`{"a":{"dtype":7}}`, "SafetensorsFieldInvalid", "a", "dtype"],
      [`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0]}}`, "SafetensorsFieldInvalid", "a", "data_offsets"],
      [`{"a":{"dtype":"U8","data_offsets":[0,2]}}`, "SafetensorsFieldMissing", "a", "shape"],
      [`{"__metadata__":{"k":"v","k":"w"}}`, "SafetensorsNameRepeated", "__metadata__", "k"],
      [`{"__metadata__":{},"__metadata__":{}}`, "SafetensorsNameRepeated", "__metadata__", undefined],
      [`{"__metadata__":7}`, "SafetensorsFieldInvalid", "__metadata__", undefined],
      [`{"a":${ENTRY}`, "SafetensorsHeaderNotJson", undefined, undefined],
      [`{"a":${ENTRY}}{}`, "SafetensorsHeaderNotJson", undefined, undefined],
    ];
    for (const [json, code, tensor, field] of cases) {
      const error = errorOf(() => parseJson(json, 2));
      assert.equal(error.code, code, json.slice(0, 80));
      assert.deepEqual([error.where.file, error.where.tensor, error.where.field], [FILE.name, tensor, field]);
      assert.ok(error.where.offset !== undefined && error.where.offset >= 8);
    }
  });

  test("refuses an axis that no number holds exactly, even in an empty tensor", () => {
    const json = `{"a":{"dtype":"U8","shape":[9007199254740993,0],"data_offsets":[0,0]}}`;
    assert.equal(errorOf(() => parseJson(json)).code, "SafetensorsSizeOverflow");
  });

  test("refuses more tensors and metadata than the limits", () => {
    const entry = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}';
    const tensors = Array.from({ length: SAFETENSORS_LIMITS.tensors + 1 }, (_, index) => `"${index}":${entry}`);
    assert.equal(errorOf(() => parseJson(`{${tensors.join(",")}}`)).code, "SafetensorsTooManyTensors");
    const pairs = Array.from({ length: SAFETENSORS_LIMITS.metadataEntries + 1 }, (_, index) => `"${index}":""`);
    assert.equal(errorOf(() => parseJson(`{"__metadata__":{${pairs}}}`)).code, "SafetensorsFieldInvalid");
  });

  test("says what a file is when it is something else", () => {
    const starts = [
      ["version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"],
      ["<!DOCTYPE html><html>", "an HTML page"],
      ["GGUF\x03\x00\x00\x00\x00\x00\x00\x00", "a GGUF file"],
      ["PK\x03\x04\x00\x00\x08\x08\x00\x00", "a zip archive, as torch.save writes"],
      ["\x93NUMPY\x01\x00v\x00", "a numpy array"],
    ] as const;
    for (const [text, what] of starts) {
      const bytes = new Uint8Array(Buffer.from(text, "latin1"));
      const error = errorOf(() => parseSafetensorsHeader(bytes, { ...FILE, bytes: bytes.length }));
      assert.deepEqual([error.code, error.found], ["SafetensorsForeignContent", what]);
    }
  });

  test("parses 100 000 tensors within two CPU seconds", () => {
    const many = Array.from({ length: 100_000 }, (_, index) => ({
      name: `model.layers.${index}.self_attn.q_proj.weight`,
      dtype: "BF16" as const,
      shape: [4, 128],
    }));
    const { header, fileBytes } = encodeSafetensorsHeader(many);
    const before = process.cpuUsage();
    assert.equal(parseSafetensorsHeader(header, { ...FILE, bytes: fileBytes }).tensors.length, many.length);
    const { user, system } = process.cpuUsage(before);
    // Measured 0.3 s; the rest is for slow machines and garbage collection.
    assert.ok(user + system < 2_000_000, `${(user + system) / 1e6} CPU seconds`);
  });
});
