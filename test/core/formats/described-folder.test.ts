// Folders that describe themselves, by universal.json or manifest.json: digests reach every tensor, and a file that is
// not what the document says is refused before any weights are read.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { buildManifest, encodeManifest, manifestDigest } from "../../../core/artifact/manifest.ts";
import { adoptSafetensors, checkpointDigest, encodeUniversal } from "../../../core/artifact/universal.ts";
import type { ErrorCode } from "../../../core/error.ts";
import { describeByManifest } from "../../../core/formats/published.ts";
import { safetensors } from "../../../core/formats/safetensors/folder.ts";
import { universal } from "../../../core/formats/universal-folder.ts";
import { refusal } from "../../refusal.ts";
import { listText, makeTensorFile } from "../artifact/parts.ts";
import { memoryFolder } from "./folder.ts";

const SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] as const;
const first = makeTensorFile(SHARDS[0], [
  { name: "a", dtype: "F32", shape: [2] },
  { name: "b", dtype: "F16", shape: [3] },
]);
const second = makeTensorFile(SHARDS[1], [{ name: "c", dtype: "F32", shape: [2] }], 5);
const texts = {
  "model.safetensors.index.json": JSON.stringify({
    metadata: { total_size: 22 },
    weight_map: { a: SHARDS[0], b: SHARDS[0], c: SHARDS[1] },
  }),
  "config.json": '{"model_type":"llama"}',
};
const sideFiles = Object.entries(texts).map(([name, text]) => listText(name, text));
const adopted = adoptSafetensors([first.listing, second.listing], sideFiles);
const files = { [SHARDS[0]]: first.bytes, [SHARDS[1]]: second.bytes, ...texts };
const described = { ...files, "universal.json": encodeUniversal(adopted) };
const manifest = buildManifest({
  model: "m",
  engine: "0.1.0",
  method: "linear",
  recipe: "",
  inputs: [],
  files: [first.listing, second.listing, ...sideFiles],
});
const published = { ...files, "manifest.json": encodeManifest(manifest) };
const digests = [...first.listing.tensors, ...second.listing.tensors].map(({ name, digest }) => [name, digest]);

type Files = Readonly<Record<string, Uint8Array | string>>;

const openUniversal = (given: Files) => universal.open(memoryFolder(given));

async function openPublished(given: Files) {
  const folder = memoryFolder(given);
  return describeByManifest(folder, await safetensors.open(folder));
}

async function refused(work: Promise<unknown>, code: ErrorCode, file: string): Promise<void> {
  await assert.rejects(work, refusal({ code, file }));
}

/** The file of the one tensor `c`, in whose header the tensor is called `d`. */
function renamed(bytes: Uint8Array): Uint8Array {
  const text = Buffer.from(bytes).toString("latin1").replace('"c":', '"d":');
  return new Uint8Array(Buffer.from(text, "latin1"));
}

/** Damages that both documents must notice. */
const DAMAGES: readonly (readonly [string, Files, string])[] = [
  ["a tensor file is cut short", { [SHARDS[1]]: second.bytes.slice(0, -1) }, SHARDS[1]],
  ["another header of the same size", { [SHARDS[1]]: renamed(second.bytes) }, SHARDS[1]],
  ["config.json was edited", { "config.json": '{"model_type":"llamb"}' }, "config.json"],
];

suite("a universal checkpoint's folder", () => {
  test("opens with the digest of every tensor and its own", async () => {
    const { checkpoint, digest, warnings, headers } = await openUniversal(described);
    assert.equal(checkpoint.format, "universal");
    assert.deepEqual(
      checkpoint.tensors.map((tensor) => [tensor.name, tensor.digest]),
      digests,
    );
    assert.equal(digest, checkpointDigest(adopted));
    assert.deepEqual(checkpoint.config, { model_type: "llama" });
    assert.deepEqual(
      checkpoint.sideFiles.map(({ name }) => name),
      Object.keys(texts).sort(),
    );
    assert.equal(headers.get(SHARDS[1])?.digest, second.listing.headerDigest);
    assert.deepEqual(warnings, []);
  });

  test("opens as plain safetensors too, with the same tensors", async () => {
    const plain = await safetensors.open(memoryFolder(described));
    const own = await openUniversal(described);
    assert.deepEqual(
      plain.checkpoint.tensors,
      own.checkpoint.tensors.map(({ digest, ...tensor }) => tensor),
    );
  });

  test("shows parameters only, not optimizer states", async () => {
    const moments = makeTensorFile("exp_avg.safetensors", [{ name: "a", dtype: "F32", shape: [2] }]);
    const { name, bytes, digest, headerDigest, tensors } = moments.listing;
    const [place] = tensors;
    assert.ok(place !== undefined);
    const state = { dtype: place.dtype, file: name, offset: place.offset, bytes: place.bytes, digest: place.digest };
    const training = {
      ...adopted,
      files: [{ name, bytes, digest, headerDigest }, ...adopted.files],
      parameters: adopted.parameters.map((each) =>
        each.name === "a" ? { ...each, states: { step: 3, exp_avg: state } } : each,
      ),
    };
    const { checkpoint } = await openUniversal({
      ...files,
      [name]: moments.bytes,
      "universal.json": encodeUniversal(training),
    });
    assert.deepEqual(
      checkpoint.tensors.map((tensor) => [tensor.name, tensor.digest]),
      digests,
    );
    assert.equal(checkpoint.tensorFiles.length, 3);
  });

  test("warns of files that are no part of it", async () => {
    const { warnings } = await openUniversal({ ...described, "extra.safetensors": "x" });
    assert.deepEqual(warnings, [{ code: "FileIgnored", where: { file: "extra.safetensors", bytes: 1 } }]);
  });

  for (const [what, damage, file] of DAMAGES) {
    test(`is refused when ${what}`, async () => {
      await refused(openUniversal({ ...described, ...damage }), "UniversalFileChanged", file);
    });
  }

  test("is refused when a file is missing or its document is", async () => {
    const { [SHARDS[0]]: _, ...torn } = described;
    await refused(openUniversal(torn), "UniversalFileChanged", SHARDS[0]);
    await refused(openUniversal(files), "UniversalInvalid", "universal.json");
    await refused(openUniversal({ ...described, "universal.json": "{" }), "UniversalInvalid", "universal.json");
  });

  test("is refused when its document names the tensors otherwise than the headers do", async () => {
    const swapped = adopted.parameters.map((each) => ({ ...each, name: each.name === "c" ? "d" : each.name }));
    const document = encodeUniversal({ ...adopted, parameters: swapped });
    await refused(openUniversal({ ...described, "universal.json": document }), "UniversalFileChanged", SHARDS[1]);
  });
});

suite("a published version's folder", () => {
  test("opens with the digest of every tensor and of its manifest", async () => {
    const { checkpoint, digest } = await openPublished(published);
    assert.equal(checkpoint.format, "safetensors");
    assert.deepEqual(
      checkpoint.tensors.map((tensor) => [tensor.name, tensor.digest]),
      digests,
    );
    assert.equal(digest, manifestDigest(manifest));
  });

  test("is a plain folder when manifest.json is another tool's, or is not there", async () => {
    for (const given of [files, { ...files, "manifest.json": '{"manifest_version":3}' }]) {
      const { checkpoint, digest } = await openPublished(given);
      assert.equal(digest, undefined);
      assert.ok(checkpoint.tensors.every((tensor) => tensor.digest === undefined));
    }
  });

  for (const [what, damage, file] of DAMAGES.slice(1)) {
    test(`is refused when ${what}`, async () => {
      const damaged = { ...published, ...damage };
      // The index is made to agree, so that only the manifest can notice.
      const index = texts["model.safetensors.index.json"].replace('"c"', file === SHARDS[1] ? '"d"' : '"c"');
      await refused(openPublished({ ...damaged, "model.safetensors.index.json": index }), "ManifestFileChanged", file);
    });
  }

  test("is refused when a listed file is missing, or has another size", async () => {
    const { "config.json": _, ...torn } = published;
    await refused(openPublished(torn), "ManifestFileChanged", "config.json");
    await refused(openPublished({ ...published, "config.json": "{}" }), "ManifestFileChanged", "config.json");
  });

  test("is refused when its weights are in a file that the manifest does not list", async () => {
    const other = buildManifest({ ...manifest, recipe: "", files: sideFiles });
    await refused(
      openPublished({ ...files, "manifest.json": encodeManifest(other) }),
      "ManifestFileChanged",
      SHARDS[0],
    );
  });

  test("is refused when its manifest is damaged", async () => {
    await refused(openPublished({ ...published, "manifest.json": "{" }), "ManifestInvalid", "manifest.json");
  });
});
