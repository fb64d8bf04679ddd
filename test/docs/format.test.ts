// The worked example of docs/format.md: made again from the values that the page states, every digest compared.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { parse as parseYaml } from "yaml";
import { canonicalJson } from "../../core/artifact/digest.ts";
import { encodeManifest, parseManifest, versionName } from "../../core/artifact/manifest.ts";
import { adoptSafetensors, checkpointDigest, listTensorFiles, parseUniversal } from "../../core/artifact/universal.ts";
import { encodeSafetensorsHeader, parseSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { DTYPES } from "../../core/tensor.ts";
import { parseOwnPatterns } from "../../core/universal/checkpoint-info.ts";
import { createUnionRules } from "../../core/universal/union.ts";
import { channelSchema } from "../../steps/schemas.ts";

const page = readFileSync(join(import.meta.dirname, "../../docs/format.md"), "utf8");

/** The text of the one fenced block with this info string. */
function block(info: string): string {
  const found = page.split(`\n\`\`\`${info}\n`);
  assert.equal(found.length, 2, `one block "${info}"`);
  return found[1]?.split("\n```")[0] ?? "";
}

const sha256 = (bytes: Uint8Array | string) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

const json = block("text header");
const paddedJson = json.padEnd(Math.ceil(json.length / 8) * 8);
const header = Buffer.concat([
  Buffer.from(new BigUint64Array([BigInt(paddedJson.length)]).buffer),
  Buffer.from(paddedJson),
]);
const data = block("text data")
  .split("\n")
  .map((line) => Buffer.from(line, "hex"));
const file = Buffer.concat([header, ...data]);
const [headerDigest, firstDigest, secondDigest, fileDigest] = block("text digests").split("\n");
const universal = parseUniversal(Buffer.from(block("json universal")));
const manifest = parseManifest(Buffer.from(block("json manifest")));

suite("the worked example of docs/format.md", () => {
  test("states the digests of its bytes", () => {
    assert.deepEqual([header, ...data].map(sha256), [headerDigest, firstDigest, secondDigest]);
    assert.equal(sha256(`${headerDigest}\n${firstDigest}\n${secondDigest}\n`), fileDigest);
    assert.ok(page.includes(`\`model.safetensors\` has ${file.length} bytes. Its header takes ${header.length}`));
  });

  test("is the file that the writer writes and the reader reads", () => {
    const parsed = parseSafetensorsHeader(file, { name: "model.safetensors", bytes: file.length });
    assert.equal(parsed.headerDigest, headerDigest);
    assert.deepEqual(Buffer.from(encodeSafetensorsHeader(parsed.tensors, parsed.metadata).header), header);
    assert.deepEqual(new Float32Array(new Uint8Array(data[0] ?? []).buffer), new Float32Array([1, 1.5]));
  });

  test("is described by its universal.json", () => {
    const config = /`(\{"model_type": "example"\})`/.exec(page)?.[1];
    const [listing] = listTensorFiles(universal);
    assert.ok(listing !== undefined && config !== undefined);
    assert.equal(listing.digest, fileDigest);
    const sideFile = { name: "config.json", bytes: config.length + 1, digest: sha256(`${config}\n`) };
    assert.deepEqual(adoptSafetensors([listing], [sideFile]), universal);
    assert.ok(page.includes(`Its digest is \`${checkpointDigest(universal)}\``));
    assert.ok(page.includes(`checkpoints/example/${checkpointDigest(universal).slice(7, 23)}/`));
  });

  test("is published under its manifest.json", () => {
    assert.ok(manifest !== undefined);
    assert.equal(manifest.inputs[0]?.digest, checkpointDigest(universal));
    assert.equal(manifest.recipe.digest, sha256(manifest.recipe.text));
    assert.ok(page.includes(`Its digest is \`${sha256(encodeManifest(manifest))}\``));
    assert.ok(page.includes(`artifacts/example-merge/${versionName(manifest)}/`));
    const channel = channelSchema.parse(JSON.parse(block("json channel")));
    assert.equal(channel.version, versionName(manifest));
  });
});

test("the file of patterns in docs/format.md is one", () => {
  const info = parseOwnPatterns(parseYaml(block("yaml patterns")), "docs/format.md");
  assert.deepEqual(info.parameter_with_sub_params?.[0]?.shape, [[4096, 1024, 1024], -1]);
  assert.equal(createUnionRules(info).isPipelineReplicated("tied_modules.embed.weight"), true);
});

test("docs/format.md lists the dtypes in their order", () => {
  const listed = /\nBOOL,[^.]*\./.exec(page)?.[0];
  assert.equal(listed?.trim().replace(/\s+/g, " "), `${DTYPES.join(", ")}.`);
});

test("docs/format.md names every field of the documents", () => {
  const names = new Set([...page.matchAll(/`(\w+)`/g)].map((match) => match[1]));
  const fields = new Set([...canonicalJson([universal, manifest]).matchAll(/"(\w+)":/g)].map((match) => match[1]));
  for (const field of fields) assert.ok(names.has(field), `the field ${field}`);
});
