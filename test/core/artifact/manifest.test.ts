// The manifest of a published version: what it holds, what names it, and every way it can contradict itself.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { suite, test } from "node:test";
import {
  buildManifest,
  encodeManifest,
  type Manifest,
  manifestDigest,
  parseManifest,
  versionName,
} from "../../../core/artifact/manifest.ts";
import { listText, makeTensorFile } from "./parts.ts";

const model = makeTensorFile("model.safetensors", [
  { name: "a", dtype: "BF16", shape: [4] },
  { name: "b", dtype: "BF16", shape: [2, 3] },
]);
const parts = {
  model: "support-bot",
  engine: "0.1.0",
  method: "linear",
  recipe: "merge_method: linear\n",
  inputs: [
    { model: "base", digest: `sha256:${"1".repeat(64)}` },
    { model: "./other", digest: null },
  ],
  files: [model.listing, listText("config.json", "{}"), listText("README.md", "# A merge")],
};
const manifest = buildManifest(parts);

function parse(value: unknown): Manifest | undefined {
  return parseManifest(new TextEncoder().encode(JSON.stringify(value)));
}

suite("manifest.json", () => {
  test("lists files in name order and the recipe at its digest", () => {
    assert.deepEqual(
      manifest.files.map(({ name }) => name),
      ["README.md", "config.json", "model.safetensors"],
    );
    const digest = createHash("sha256").update(parts.recipe).digest("hex");
    assert.deepEqual(manifest.recipe, { text: parts.recipe, digest: `sha256:${digest}` });
  });

  test("comes back from its bytes, whose SHA-256 begins with the version's name", () => {
    const bytes = encodeManifest(manifest);
    assert.deepEqual(parseManifest(bytes), manifest);
    const hex = createHash("sha256").update(bytes).digest("hex");
    assert.equal(manifestDigest(manifest), `sha256:${hex}`);
    assert.equal(versionName(manifest), hex.slice(0, 16));
  });

  test("is the same whatever order the files are given in", () => {
    assert.equal(versionName(buildManifest({ ...parts, files: [...parts.files].reverse() })), versionName(manifest));
  });

  test("is another version when a recipe, input, engine or tensor differs", () => {
    const other = makeTensorFile("model.safetensors", model.listing.tensors, 1);
    const names = [
      manifest,
      buildManifest({ ...parts, recipe: `${parts.recipe}#` }),
      buildManifest({ ...parts, engine: "0.1.1" }),
      buildManifest({ ...parts, inputs: [] }),
      buildManifest({ ...parts, files: [other.listing] }),
    ].map(versionName);
    assert.equal(new Set(names).size, names.length);
  });

  test("is refused when it contradicts itself", () => {
    const [readme, config, weights] = manifest.files;
    assert.ok(weights !== undefined && "tensors" in weights);
    const [tensor, ...others] = weights.tensors;
    assert.ok(tensor !== undefined && readme !== undefined && config !== undefined);
    const withTensors = (tensors: readonly unknown[]) => ({ ...manifest, files: [{ ...weights, tensors }] });
    const cases: readonly (readonly [string, unknown])[] = [
      ["a recipe at another digest", { ...manifest, recipe: { ...manifest.recipe, text: "x" } }],
      ["a file twice", { ...manifest, files: [config, config] }],
      ["files out of order", { ...manifest, files: [config, readme] }],
      ["itself among its files", { ...manifest, files: [listText("manifest.json", "{}")] }],
      ["a file outside the folder", { ...manifest, files: [{ ...config, name: "../config.json" }] }],
      ["a file two folders down", { ...manifest, files: [{ ...config, name: "a/b/config.json" }] }],
      ["a tensor left out", withTensors(others)],
      ["tensors in another order", withTensors([...weights.tensors].reverse())],
      ["a tensor of another digest", withTensors([{ ...tensor, digest: `sha256:${"0".repeat(64)}` }, ...others])],
      ["a tensor of another shape", withTensors([{ ...tensor, shape: [5] }, ...others])],
      ["a tensor of no dtype", withTensors([{ ...tensor, dtype: "F128" }, ...others])],
      ["a name twice", withTensors([tensor, ...others.map((each) => ({ ...each, name: tensor.name }))])],
      ["an unknown field", { ...manifest, time: "now" }],
    ];
    for (const [what, value] of cases) {
      assert.throws(() => parse(value), { code: "ManifestInvalid" }, what);
    }
    assert.throws(() => parseManifest(new TextEncoder().encode("{")), { code: "ManifestInvalid" });
  });

  test("of a later version is refused as such", () => {
    assert.throws(() => parse({ ...manifest, manifest: 2 }), { code: "ManifestVersionUnsupported", found: "2" });
  });

  test("of another tool is none of ours", () => {
    assert.equal(parse({ manifest_version: 3, name: "an extension" }), undefined);
    assert.equal(parse([1]), undefined);
  });
});
