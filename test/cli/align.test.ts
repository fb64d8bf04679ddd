// Goal: a model whose units were shuffled is aligned with the model it came from, bit for bit, in every family that is
// known by name; what is not known is refused. Method: small models in files, through the command line.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { derivePermutations } from "../../core/align/permutation-spec.ts";
import { elementOffsets } from "../../core/align/weight-matching.ts";
import { type Manifest, manifestDigest, parseManifest } from "../../core/artifact/manifest.ts";
import { plainNumbers } from "../random-numbers.ts";
import { type PlainTensors, readPlainModel, runJson, writePlainModel } from "./model-files.ts";

let cwd = "";
before(() => {
  cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-align-"));
});
after(() => rmSync(cwd, { recursive: true }));

function fieldsOf({ code, where, found }: Record<string, unknown>): readonly unknown[] {
  return [code, Object(where).tensor, found];
}

function readManifest(folder: string): Manifest | undefined {
  return parseManifest(readFileSync(path.join(cwd, folder, "manifest.json")));
}

type Shapes = Readonly<Record<string, readonly number[]>>;

const MLP: Shapes = {
  "net.0.weight": [9, 5],
  "net.0.bias": [9],
  "net.2.weight": [7, 9],
  "net.2.bias": [7],
  "net.4.weight": [3, 7],
};
const LLAMA: Shapes = {
  "model.embed_tokens.weight": [11, 6],
  "model.layers.0.input_layernorm.weight": [6],
  "model.layers.0.self_attn.q_proj.weight": [6, 6],
  "model.layers.0.self_attn.o_proj.weight": [6, 6],
  "model.layers.0.mlp.gate_proj.weight": [10, 6],
  "model.layers.0.mlp.up_proj.weight": [10, 6],
  "model.layers.0.mlp.down_proj.weight": [6, 10],
  "model.norm.weight": [6],
  "lm_head.weight": [11, 6],
};
const VIT: Shapes = {
  "vit.embeddings.cls_token": [1, 1, 6],
  "vit.embeddings.position_embeddings": [1, 5, 6],
  "vit.embeddings.patch_embeddings.projection.weight": [6, 1, 2, 2],
  "vit.embeddings.patch_embeddings.projection.bias": [6],
  "vit.encoder.layer.0.layernorm_before.weight": [6],
  "vit.encoder.layer.0.attention.attention.query.weight": [6, 6],
  "vit.encoder.layer.0.attention.output.dense.weight": [6, 6],
  "vit.encoder.layer.0.intermediate.dense.weight": [8, 6],
  "vit.encoder.layer.0.intermediate.dense.bias": [8],
  "vit.encoder.layer.0.output.dense.weight": [6, 8],
  "vit.layernorm.weight": [6],
  "vit.layernorm.bias": [6],
};

function modelOf(shapes: Shapes): PlainTensors {
  return Object.fromEntries(
    Object.entries(shapes).map(([name, shape], at) => {
      const count = shape.reduce((product, length) => product * length, 1);
      return [name, { shape, values: plainNumbers(count, at + 1) }];
    }),
  );
}

/** The model with unit i of every permutation taken from unit 3 i + 1 or the like. */
function shuffle(model: PlainTensors): PlainTensors {
  const entries = Object.entries(model).map(([name, { shape }]) => ({
    name,
    shape,
    dtype: "F32" as const,
    ranges: [],
  }));
  const spec = derivePermutations(entries);
  return Object.fromEntries(
    Object.entries(model).map(([name, { shape, values }]) => {
      const permuted = (spec.get(name) ?? []).map((own, axis) => {
        const length = shape[axis] ?? 0;
        return own === null ? undefined : Int32Array.from({ length }, (_, i) => (length - 1 - i + 2) % length);
      });
      return [name, { shape, values: [...elementOffsets(shape, shape, permuted)].map((at) => values[at] ?? 0) }];
    }),
  );
}

describe("align", () => {
  for (const [family, shapes] of Object.entries({ mlp: MLP, llama: LLAMA, vit: VIT })) {
    test(`undoes a shuffle of a model of the family ${family}`, async () => {
      const model = modelOf(shapes);
      writePlainModel(path.join(cwd, family, "a"), "model.safetensors", model, {
        "config.json": { model_type: family },
      });
      writePlainModel(path.join(cwd, family, "b"), "model.safetensors", shuffle(model), { "config.json": {} });
      const result = await runJson(cwd, "align", `${family}/b`, "--to", `${family}/a`, "--out", `${family}/out`);
      assert.equal(result.status, undefined, JSON.stringify(result));
      assert.ok(Number(result.moved) > 0 && Number(result.iterations) > 1);
      assert.deepEqual(
        await readPlainModel(path.join(cwd, family, "out")),
        await readPlainModel(path.join(cwd, family, "a")),
      );
    });
  }

  test("the folder is one that verify checks, and has one version wherever it lies", async () => {
    writePlainModel(path.join(cwd, "v/a"), "model.safetensors", modelOf(MLP), { "config.json": {} });
    writePlainModel(path.join(cwd, "v/b"), "model.safetensors", shuffle(modelOf(MLP)), { "config.json": {} });
    const result = await runJson(cwd, "align", "v/b", "--to", "v/a", "--out", "v/out");
    const elsewhere = await runJson(path.join(cwd, "v"), "align", "b", "--to", "a", "--out", "deep/out");
    assert.match(String(result.version), /^[0-9a-f]{16}$/);
    assert.equal(elsewhere.version, result.version);
    const other = await runJson(cwd, "align", "v/b", "--to", "v/a", "--out", "v/seeded", "--seed", "1");
    assert.notEqual(other.version, result.version);
    const over = ["align", "v/b", "--to", "v/a", "--out", "v/seeded"];
    assert.equal((await runJson(cwd, ...over)).code, "CliOutputOccupied");
    assert.equal((await runJson(cwd, ...over, "--force")).version, result.version, "a former output is replaced");
    writeFileSync(path.join(cwd, "v/seeded/notes.txt"), "mine");
    assert.equal((await runJson(cwd, ...over, "--force")).found, "notes.txt");
    const checked = await runJson(cwd, "verify", "v/out");
    assert.equal(checked.status, undefined, JSON.stringify(checked));
    // A version is known by its digest, another folder by the digest that a merge states of it.
    await runJson(cwd, "align", "v/b", "--to", "v/out", "--out", "v/again");
    const manifest = readManifest("v/again");
    const before = readManifest("v/out");
    writeFileSync(
      path.join(cwd, "v/merge.yaml"),
      "merge_method: linear\nmodels: [{model: b, parameters: {weight: 1}}]\n",
    );
    await runJson(cwd, "merge", "v/merge.yaml", "--out", "v/merged");
    const [plain] = readManifest("v/merged")?.inputs ?? [];
    assert.match(plain?.digest ?? "", /^sha256:/);
    assert.deepEqual(manifest?.inputs, [plain, { model: "out", digest: before && manifestDigest(before) }]);
    assert.deepEqual(
      [manifest?.method, manifest?.files.map(({ name }) => name)],
      ["align", ["config.json", "model.safetensors"]],
    );
  });

  test("a spec says what names do not, and other tensors stay as they are", async () => {
    const model = modelOf({ "Dense_0/kernel": [4, 6], "Dense_1/kernel": [6, 3], step: [1] });
    const axes = { "Dense_0/kernel": [null, "P_0"], "Dense_1/kernel": ["P_0", null] };
    writePlainModel(path.join(cwd, "flax"), "model.safetensors", model);
    writeFileSync(path.join(cwd, "spec.json"), JSON.stringify({ axes_to_perm: axes }));
    const unknown = await runJson(cwd, "align", "flax", "--to", "flax", "--out", "n");
    assert.deepEqual([unknown.status, unknown.code], [1, "AlignModelUnknown"]);
    const result = await runJson(cwd, "align", "flax", "--to", "flax", "--out", "flax-out", "--spec", "spec.json");
    assert.deepEqual([result.moved, result.units, result.permutations], [0, 6, 1]);
    assert.deepEqual(await readPlainModel(path.join(cwd, "flax-out")), await readPlainModel(path.join(cwd, "flax")));
  });

  test("permutations that do not fit, and models of another build, are refused", async () => {
    writePlainModel(path.join(cwd, "m"), "model.safetensors", modelOf({ "x.weight": [4, 4], "y.weight": [3, 4] }));
    const specs = [
      [{ "x.weight": ["P", "P"] }, "x.weight", "P on two axes"],
      [{ "x.weight": ["P"] }, "x.weight", "1 axes"],
      [{ "x.weight": ["P", null], "y.weight": ["P", null] }, "y.weight", "3 units of P"],
    ] as const;
    for (const [axes, tensor, found] of specs) {
      writeFileSync(path.join(cwd, "bad.json"), JSON.stringify({ axes_to_perm: axes }));
      const refused = await runJson(cwd, "align", "m", "--to", "m", "--out", "n", "--spec", "bad.json");
      assert.deepEqual(fieldsOf(refused), ["AlignSpecInvalid", tensor, found]);
    }
    writePlainModel(path.join(cwd, "mlp1"), "model.safetensors", modelOf(MLP));
    writePlainModel(
      path.join(cwd, "mlp2"),
      "model.safetensors",
      modelOf({ ...MLP, "net.0.bias": [9], "net.4.weight": [4, 7] }),
    );
    const shapes = await runJson(cwd, "align", "mlp1", "--to", "mlp2", "--out", "n");
    assert.deepEqual(fieldsOf(shapes), ["PlanShapeMismatch", "net.4.weight", "[3, 7]"]);
    const missing = await runJson(cwd, "align", "mlp1", "--to", "m", "--out", "n");
    assert.deepEqual(fieldsOf(missing), ["PlanTensorMissing", "net.0.bias", "no such tensor"]);
  });
});
