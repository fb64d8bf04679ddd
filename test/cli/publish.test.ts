// Goal: what a command made into a folder becomes a version like a run's: checked on its way, found by name, with its
// lineage, signed where there is a key. Method: the example models through the command line.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { main } from "../../cli/main.ts";
import { runJson } from "./model-files.ts";
import { createRecorder } from "./recorder.ts";

const EXAMPLES = path.resolve(import.meta.dirname, "../../examples");
let cwd = "";
const run = (...args: readonly string[]) => runJson(cwd, ...args);

before(async () => {
  cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-publish-"));
  await run("init", "yard");
  writeFileSync(
    path.join(cwd, "average.yaml"),
    "merge_method: linear\nmodels: [{model: base}, {model: python}]\nparameters: {weight: 1}\n",
  );
  const names = ["base", "python"].flatMap((name) => ["--model", `${name}=${path.join(EXAMPLES, "models", name)}`]);
  const merged = await run("merge", "average.yaml", "--out", "average", ...names);
  assert.equal(merged.status, undefined, JSON.stringify(merged));
});
after(() => rmSync(cwd, { recursive: true }));

describe("publish", () => {
  test("a merged folder is a version under the name of its manifest, and is pulled as it was", async () => {
    const done = await run("publish", "average", "average", "--yard", "yard");
    assert.deepEqual([done.outcome, done.channel, done.before, done.files], ["published", "latest", null, 4]);
    assert.equal((await run("pull", "average", "pulled", "--yard", "yard")).version, done.version);
    assert.deepEqual(readdirSync(path.join(cwd, "pulled")).sort(), readdirSync(path.join(cwd, "average")).sort());
    const again = await run("publish", "pulled", "average", "--yard", "yard", "--channel", "stable");
    assert.deepEqual([again.outcome, again.version, again.channel], ["present", done.version, "stable"]);
  });

  test("models made of published ones are published with their lineage", async () => {
    const published = await run("publish", "average", "average", "--yard", "yard");
    const aligned = await run(
      "align",
      path.join(EXAMPLES, "models/python"),
      "--to",
      "average",
      "--yard",
      "yard",
      "--out",
      "aligned",
    );
    assert.equal(aligned.status, undefined, JSON.stringify(aligned));
    const adapter = await run(
      "lora",
      "extract",
      "average",
      "--base",
      path.join(EXAMPLES, "models/base"),
      "--rank",
      "2",
      "--skip-undecomposable",
      "--yard",
      "yard",
      "--out",
      "adapter",
    );
    assert.equal(adapter.status, undefined, JSON.stringify(adapter));
    const combined = await run("lora", "merge", "adapter", "adapter", "--out", "combined");
    assert.equal(combined.status, undefined, JSON.stringify(combined));
    for (const name of ["aligned", "adapter", "combined"]) {
      assert.equal((await run("publish", name, name, "--yard", "yard")).outcome, "published", name);
    }
    const name = `average@${published.version}`;
    for (const model of ["aligned", "adapter"]) {
      const { verified } = await run("verify", model, "--yard", "yard");
      const places = Object(verified)[0].lineage.map(({ model: of, place }: Record<string, unknown>) => [of, place]);
      assert.ok(
        JSON.stringify(places).includes(JSON.stringify([name, `artifacts/average/${published.version}/`])),
        model,
      );
    }
  });

  test("what is damaged, has no manifest or no name of a model is refused, and nothing is there", async () => {
    cpSync(path.join(cwd, "average"), path.join(cwd, "damaged"), { recursive: true });
    const weights = path.join(cwd, "damaged/model.safetensors");
    const bytes = readFileSync(weights);
    bytes.writeUInt8((bytes.at(-1) ?? 0) ^ 1, bytes.length - 1);
    writeFileSync(weights, bytes);
    assert.equal((await run("publish", "damaged", "damaged", "--yard", "yard")).code, "YardFileCorrupt");
    const models = Object((await run("ls", "--yard", "yard")).models);
    const listed = models.find(({ model }: { model: string }) => model === "damaged");
    assert.deepEqual([listed?.versions ?? [], listed?.channels ?? {}], [[], {}]);
    const plain = path.join(EXAMPLES, "models/base");
    assert.equal((await run("publish", plain, "base", "--yard", "yard")).code, "YardManifestMissing");
    assert.equal((await run("publish", "average", "a/b", "--yard", "yard")).code, "StoreNameInvalid");
    assert.equal((await run("publish", "average", "average", "--yard", "nowhere")).code, "YardMissing");
  });

  test("with a signing key it is signed, also where it was published unsigned before", async () => {
    await run("keygen", "publisher.pem");
    await run("publish", "average", "signed", "--yard", "yard");
    const verify = ["verify", "signed", "--yard", "yard", "--key", "publisher.pem.pub"];
    assert.equal((await run(...verify)).code, "SignatureMissing");
    const env = { MERGEYARD_SIGNING_KEY: path.join(cwd, "publisher.pem") };
    const terminal = { ...createRecorder({ cwd }), env };
    assert.equal(await main(["publish", "average", "signed", "--yard", "yard"], terminal), 0);
    const { verified } = await run(...verify);
    assert.equal(Object(verified)[0].signature.status, "valid");
  });
});
