// The universal checkpoint's document: adoption of safetensors, its identity, and every way it can contradict itself.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { suite, test } from "node:test";
import { canonicalJson } from "../../../core/artifact/digest.ts";
import {
  adoptSafetensors,
  checkpointDigest,
  encodeUniversal,
  listTensorFiles,
  parseUniversal,
  type Universal,
  type UniversalParameter,
} from "../../../core/artifact/universal.ts";
import { listText, makeTensorFile } from "./parts.ts";

const first = makeTensorFile("model-00001-of-00002.safetensors", [
  { name: "b", dtype: "F32", shape: [2, 3] },
  { name: "a", dtype: "BF16", shape: [4] },
]);
const second = makeTensorFile("model-00002-of-00002.safetensors", [{ name: "c", dtype: "F16", shape: [] }], 7);
const side = [listText("config.json", "{}"), listText("README.md", "# A model")];
const adopted = adoptSafetensors([second.listing, first.listing], side);

/** The document with its first parameter, `b`, changed. */
function withParameter(change: Partial<UniversalParameter>): Universal {
  const [parameter, ...others] = adopted.parameters;
  assert.ok(parameter !== undefined);
  return { ...adopted, parameters: [{ ...parameter, ...change }, ...others] };
}

function parse(value: unknown): Universal {
  return parseUniversal(new TextEncoder().encode(JSON.stringify(value)));
}

suite("universal.json", () => {
  test("lists files by name and parameters by file and offset, each of one owner", () => {
    assert.deepEqual(
      adopted.files.map(({ name }) => name),
      ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    );
    assert.deepEqual(
      adopted.sideFiles.map(({ name }) => name),
      ["README.md", "config.json"],
    );
    assert.deepEqual(
      adopted.parameters.map(({ name, file, pattern }) => [name, file, pattern.kind]),
      [
        ["b", "model-00001-of-00002.safetensors", "unique"],
        ["a", "model-00001-of-00002.safetensors", "unique"],
        ["c", "model-00002-of-00002.safetensors", "unique"],
      ],
    );
    assert.equal(adopted.source.files.length, 4);
  });

  test("comes back from its bytes, whose SHA-256 is the checkpoint's digest", () => {
    const bytes = encodeUniversal(adopted);
    assert.deepEqual(parseUniversal(bytes), adopted);
    assert.equal(checkpointDigest(adopted), `sha256:${createHash("sha256").update(bytes).digest("hex")}`);
    assert.equal(new TextDecoder().decode(bytes), canonicalJson(adopted));
  });

  test("has the same identity whatever order the listings come in", () => {
    const other = adoptSafetensors([first.listing, second.listing], [...side].reverse());
    assert.equal(checkpointDigest(other), checkpointDigest(adopted));
  });

  test("has another identity when one byte of one tensor differs", () => {
    const changed = makeTensorFile("model-00002-of-00002.safetensors", [{ name: "c", dtype: "F16", shape: [] }], 8);
    assert.notEqual(
      checkpointDigest(adoptSafetensors([first.listing, changed.listing], side)),
      checkpointDigest(adopted),
    );
  });

  test("gives back the listings that it was made from", () => {
    assert.deepEqual(listTensorFiles(adopted), [first.listing, second.listing]);
  });

  test("holds optimizer states, each in a file of its own under the parameter's name", () => {
    const moments = makeTensorFile("exp_avg.safetensors", [{ name: "a", dtype: "F32", shape: [4] }]);
    const [place] = moments.listing.tensors;
    assert.ok(place !== undefined);
    const { name, bytes, digest, headerDigest } = moments.listing;
    const states = {
      step: 100,
      exp_avg: { dtype: place.dtype, file: name, offset: place.offset, bytes: place.bytes, digest: place.digest },
    };
    const training = {
      ...adopted,
      files: [{ name, bytes, digest, headerDigest }, ...adopted.files],
      parameters: adopted.parameters.map((each) => (each.name === "a" ? { ...each, states } : each)),
    };
    assert.deepEqual(listTensorFiles(parse(training))[0], moments.listing);
  });

  test("accepts every pattern that fits its tensor", () => {
    const patterns: UniversalParameter["pattern"][] = [
      { kind: "replicated" },
      { kind: "averaged" },
      { kind: "fragment", dim: 1 },
      { kind: "fragment", dim: 1, parts: [{ length: 1 }, { length: 2, widths: [2, 0] }] },
    ];
    for (const pattern of patterns) assert.deepEqual(parse(withParameter({ pattern })).parameters[0]?.pattern, pattern);
    const padded = withParameter({ vocabulary: { paddedRows: 128 }, aliases: ["tied"] });
    assert.deepEqual(parse(padded), padded);
  });

  test("is refused when it contradicts itself", () => {
    const [parameter, ...others] = adopted.parameters;
    assert.ok(parameter !== undefined);
    const cases: readonly (readonly [string, unknown])[] = [
      ["a name twice", { ...adopted, parameters: [parameter, { ...parameter }, ...others] }],
      ["an alias that is a name", withParameter({ aliases: ["c"] })],
      ["a file that is not listed", withParameter({ file: "other.safetensors" })],
      ["a file outside the folder", withParameter({ file: "../other.safetensors" })],
      ["a size that is not the shape's", withParameter({ shape: [2, 4] })],
      ["a place inside another tensor", withParameter({ offset: parameter.offset + 4 })],
      ["a digest that is not part of the file's", withParameter({ digest: `sha256:${"0".repeat(64)}` })],
      ["a digest in another form", withParameter({ digest: "md5:0" })],
      ["a parameter left out", { ...adopted, parameters: others }],
      ["a file twice", { ...adopted, sideFiles: [...adopted.sideFiles, ...adopted.sideFiles] }],
      ["itself among its files", { ...adopted, sideFiles: [listText("universal.json", "{}")] }],
      ["an unknown field", { ...adopted, note: "x" }],
      ["a dim that the shape lacks", withParameter({ pattern: { kind: "fragment", dim: 2 } })],
      ["parts of another length", withParameter({ pattern: { kind: "fragment", dim: 1, parts: [{ length: 2 }] } })],
      [
        "widths of another sum",
        withParameter({ pattern: { kind: "fragment", dim: 1, parts: [{ length: 3, widths: [1, 1] }] } }),
      ],
      ["fewer padded rows than rows", withParameter({ vocabulary: { paddedRows: 1 } })],
      ["no mark", { ...adopted, universal: undefined }],
    ];
    for (const [what, value] of cases) {
      assert.throws(() => parse(value), { code: "UniversalInvalid" }, what);
    }
    assert.throws(() => parseUniversal(new TextEncoder().encode('{"universal":1,')), { code: "UniversalInvalid" });
    assert.throws(() => parseUniversal(new TextEncoder().encode('{"universal":1,"universal":1}')), {
      code: "UniversalInvalid",
    });
  });

  test("of a later version is refused as such", () => {
    assert.throws(() => parse({ ...adopted, universal: 2 }), {
      code: "UniversalVersionUnsupported",
      found: "2",
      expected: "1",
    });
  });

  test("names the field that is wrong", () => {
    assert.throws(
      () => parse({ ...adopted, parameters: [{ ...adopted.parameters[0], bytes: -1 }] }),
      (error: unknown) => error instanceof Error && Reflect.get(error, "where").field === "parameters[0].bytes",
    );
  });
});
