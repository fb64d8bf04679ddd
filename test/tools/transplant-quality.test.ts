// What transplanting is worth on trained weights: a model of bytes that has lost the rows of fifteen letters gets them
// back by the tokenizer of another fine-tune of its parent, and reads nearly as before. Method: bits per byte of the
// licence, a kind of text that the model was trained on.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { compileLinear } from "../../tools/quality/linear.ts";
import { score } from "../../tools/quality/score.ts";
import { type PlainTensors, readPlainModel, runJson, writePlainModel } from "../cli/model-files.ts";

const ROOT = path.resolve(import.meta.dirname, "../..");
const MODELS = path.join(ROOT, "examples/models");
const LOST = new Set(Buffer.from("bcfghkmpuvwyBCT"));
const MATRICES = ["model.embed_tokens.weight", "lm_head.weight"];

/** The model without the rows of the lost bytes, and a tokenizer that does not have them. */
async function writeForgetful(folder: string): Promise<void> {
  const known = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !LOST.has(byte));
  const model = await readPlainModel(path.join(MODELS, "base"));
  const tensors: PlainTensors = Object.fromEntries(
    Object.entries(model).map(([name, tensor]) => {
      if (!MATRICES.includes(name)) return [name, tensor];
      const width = tensor.shape[1] ?? 0;
      const values = known.flatMap((byte) => tensor.values.slice(byte * width, (byte + 1) * width));
      return [name, { shape: [known.length, width], values }];
    }),
  );
  const read = (file: string) => JSON.parse(readFileSync(path.join(MODELS, "base", file), "utf8"));
  const tokenizer = read("tokenizer.json");
  const letters = Object.entries(Object(tokenizer).model.vocab).sort(([, a], [, b]) => Number(a) - Number(b));
  const vocab = Object.fromEntries(known.map((byte, id) => [letters[byte]?.[0], id]));
  writePlainModel(folder, "model.safetensors", tensors, {
    "config.json": { ...read("config.json"), vocab_size: known.length },
    "tokenizer.json": { ...tokenizer, model: { ...tokenizer.model, vocab } },
  });
}

test("letters that were lost come back best by matching pursuit, and nearly whole", async (t) => {
  const cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-transplant-quality-"));
  t.after(() => rmSync(cwd, { recursive: true }));
  await writeForgetful(path.join(cwd, "forgetful"));
  cpSync(path.join(MODELS, "python"), path.join(cwd, "donor"), { recursive: true });
  cpSync(path.join(MODELS, "base/tokenizer.json"), path.join(cwd, "donor/tokenizer.json"));
  const text = readFileSync(path.join(ROOT, "LICENSE"));
  const spec = [{ name: "text", dtype: "U8", shape: [text.length] }] as const;
  writeFileSync(
    path.join(cwd, "licence.safetensors"),
    encodeSafetensorsFile(spec, () => text),
  );
  const module = compileLinear();
  const bitsOf = async (model: string): Promise<number> => {
    const scores = await score(module, { kind: "llama", model, data: cwd, tasks: ["licence"], samples: 64 });
    const own = scores.licence ?? [];
    return own.reduce((sum, bits) => sum + bits, 0) / own.length;
  };
  const measured = new Map([["whole", await bitsOf(path.join(MODELS, "base"))]]);
  for (const options of [
    "omp",
    "omp --k 16",
    "common_interpolation --k 16 --cosine-similarity",
    "common_interpolation --k 64 --weight-scheme barycentric",
    "mean",
    "zero",
  ]) {
    const args = ["forgetful", "--tokenizer", "donor", "--out", "made", "--force", "--method", ...options.split(" ")];
    const made = await runJson(cwd, "transplant", ...args);
    assert.equal(made.status, undefined, JSON.stringify(made));
    measured.set(options, await bitsOf(path.join(cwd, "made")));
  }
  for (const [name, bits] of measured) t.diagnostic(`${name}: ${bits.toFixed(3)} bits per byte`);
  const whole = measured.get("whole") ?? 0;
  const lossOf = (name: string): number => (measured.get(name) ?? Number.NaN) - whole;
  const others = [...measured.keys()].filter((name) => name !== "whole" && name !== "omp");
  for (const other of others) assert.ok(lossOf("omp") < lossOf(other), other);
  assert.ok(lossOf("omp") < 0.1 * lossOf("mean"), `${lossOf("omp")} of ${lossOf("mean")}`);
});
