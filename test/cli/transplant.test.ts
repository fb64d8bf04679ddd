// Goal: a model with another tokenizer has the rows that mergekit-tokensurgeon gives it, in a folder that is whole, and
// what cannot be right is refused. Method: the golden models, and small ones in files, through the command line.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { parseManifest } from "../../core/artifact/manifest.ts";
import { plainNumbers } from "../random-numbers.ts";
import { type PlainTensor, type PlainTensors, readPlainModel, runJson, writePlainModel } from "./model-files.ts";

const GOLDEN = path.resolve(import.meta.dirname, "../golden/transplant");
const EMBEDDING = "model.embed_tokens.weight";
const HEAD = "lm_head.weight";
/** Of the norm of a row: float32 sums of mergekit's, and of twice as many roundings. */
const TOLERANCE = 2e-6;

let cwd = "";
let expected: PlainTensors = {};
before(async () => {
  cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-transplant-"));
  cpSync(GOLDEN, cwd, { recursive: true });
  mkdirSync(path.join(cwd, "expected"));
  cpSync(path.join(GOLDEN, "expected.safetensors"), path.join(cwd, "expected/model.safetensors"));
  expected = await readPlainModel(path.join(cwd, "expected"));
});
after(() => rmSync(cwd, { recursive: true }));

async function transplant(out: string, ...options: readonly string[]): Promise<PlainTensors> {
  const result = await runJson(cwd, "transplant", "base", "--tokenizer", "donor", "--out", out, ...options);
  assert.equal(result.status, undefined, JSON.stringify(result));
  return readPlainModel(path.join(cwd, out));
}

function rowsOf({ shape, values }: PlainTensor): readonly (readonly number[])[] {
  const width = shape[1] ?? 1;
  return Array.from({ length: shape[0] ?? 0 }, (_, row) => values.slice(row * width, (row + 1) * width));
}

/** How many rows are equal to the last bit; all others must be within the tolerance. */
function compareRows(got: PlainTensor | undefined, wanted: PlainTensor | undefined, tolerance = TOLERANCE): number {
  assert.ok(got !== undefined && wanted !== undefined);
  assert.deepEqual(got.shape, wanted.shape);
  const rows = rowsOf(got);
  return rowsOf(wanted).filter((row, index) => {
    const apart = Math.hypot(...row.map((value, i) => value - (rows[index]?.[i] ?? 0)));
    assert.ok(apart <= tolerance * Math.hypot(...row), `row ${index}: ${apart}`);
    return apart === 0;
  }).length;
}

function readJson(file: string): Record<string, unknown> {
  return JSON.parse(readFileSync(path.join(cwd, file), "utf8"));
}

function vocabularyOf(model: string): Readonly<Record<string, number>> {
  return Object(readJson(`${model}/tokenizer.json`).model).vocab;
}

describe("transplant", () => {
  test("rows are those of mergekit, everything else is the model's", async () => {
    const made = await transplant("omp", "--k", "6");
    for (const name of [EMBEDDING, HEAD]) assert.ok(compareRows(made[name], expected[`omp/${name}`]) >= 115);
    const base = await readPlainModel(path.join(cwd, "base"));
    assert.deepEqual(Object.keys(made).sort(), Object.keys(base).sort());
    for (const name of Object.keys(base)) {
      if (name !== EMBEDDING && name !== HEAD) assert.deepEqual(made[name], base[name]);
    }
    const config = readJson("omp/config.json");
    assert.deepEqual(config, { ...readJson("base/config.json"), vocab_size: 140, bos_token_id: 0, eos_token_id: 1 });
    for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
      assert.deepEqual(readFileSync(path.join(cwd, "omp", name)), readFileSync(path.join(cwd, "donor", name)));
    }
    assert.equal((await runJson(cwd, "verify", "omp")).status, undefined);
    const manifest = parseManifest(readFileSync(path.join(cwd, "omp/manifest.json")));
    assert.deepEqual(
      manifest?.inputs.map(({ model }) => model),
      ["base", "donor"],
    );
  });

  test("threads and memory change no byte", async () => {
    const version = async (out: string, ...options: readonly string[]) =>
      (await runJson(cwd, "transplant", "base", "--tokenizer", "donor", "--out", out, "--k", "5", ...options)).version;
    const one = await version("t1", "--threads", "1");
    assert.match(String(one), /^[0-9a-f]{16}$/);
    assert.equal(await version("t3", "--threads", "3", "--memory", "256MiB"), one);
    assert.notEqual(await version("k", "--prefix-match", "yes"), one);
  });

  test("a model that gets its own tokenizer is the same", async () => {
    await runJson(cwd, "transplant", "base", "--tokenizer", "base", "--out", "own");
    assert.deepEqual(await readPlainModel(path.join(cwd, "own")), await readPlainModel(path.join(cwd, "base")));
    assert.deepEqual(readJson("own/config.json"), readJson("base/config.json"));
  });

  test("means and zeros stand for what the model does not know", async () => {
    const base = rowsOf((await readPlainModel(path.join(cwd, "base")))[EMBEDDING] ?? { shape: [], values: [] });
    const mean = base[0]?.map((_, i) => base.reduce((sum, row) => sum + (row[i] ?? 0), 0) / base.length) ?? [];
    const made = rowsOf((await transplant("mean", "--method", "mean"))[EMBEDDING] ?? { shape: [], values: [] });
    const zeros = rowsOf((await transplant("zero", "--method", "zero"))[EMBEDDING] ?? { shape: [], values: [] });
    const unknown = zeros.flatMap((row, index) => (row.every((value) => value === 0) ? [index] : []));
    assert.equal(unknown.length, 25);
    for (const index of unknown) assert.deepEqual(made[index], mean.map(Math.fround));
  });

  test("interpolations are those of mergekit, by every way to weigh", async () => {
    const nearest = ["--method", "common_interpolation", "--k", "6"];
    for (const [name, ...options] of [
      ["distance_proportional"],
      ["cosine", "--cosine-similarity"],
      ["barycentric", "--weight-scheme", "barycentric"],
      ["least_squares", "--weight-scheme", "least_squares"],
    ] as const) {
      const made = await transplant(name, ...nearest, ...options);
      // mergekit solves for barycentric weights in float32.
      compareRows(made[EMBEDDING], expected[`${name}/${EMBEDDING}`], name === "barycentric" ? 5e-4 : TOLERANCE);
    }
    const idle = ["transplant", "base", "--tokenizer", "donor", "--out", "no", "--cosine-similarity"];
    assert.equal((await runJson(cwd, ...idle)).code, "CliUsage");
  });

  test("a token is the mean of the pieces that the model's tokenizer makes of it", async () => {
    const made = await transplant("pieces", "--method", "subword");
    const own = rowsOf((await readPlainModel(path.join(cwd, "base")))[EMBEDDING] ?? { shape: [], values: [] });
    const [ids, donorIds] = [vocabularyOf("base"), vocabularyOf("donor")];
    const rows = rowsOf(made[EMBEDDING] ?? { shape: [], values: [] });
    for (const [token, pieces] of [
      ["th", ["t", "h"]],
      ["\u0120W", ["\u0120", "W"]],
      ["ing", ["in", "g"]],
    ] as const) {
      assert.equal(ids[token], undefined);
      const [first = [], second = []] = pieces.map((piece) => own[ids[piece] ?? -1]);
      const mean = first.map((value, i) => Math.fround((value + (second[i] ?? 0)) / 2));
      assert.deepEqual(rows[donorIds[token] ?? -1], mean, token);
    }
    const weighed = await transplant("first", "--method", "subword", "--subword-method", "first_last");
    const [head, embedding] = [HEAD, EMBEDDING].map((name) => rowsOf(weighed[name] ?? { shape: [], values: [] }));
    const heads = rowsOf((await readPlainModel(path.join(cwd, "base")))[HEAD] ?? { shape: [], values: [] });
    const th = donorIds.th ?? -1;
    assert.deepEqual([embedding?.[th], head?.[th]], [own[ids.h ?? -1], heads[ids.t ?? -1]]);
  });

  test("prefixes stand in where they may", async () => {
    const [all, none] = [await transplant("p", "--k", "6", "--prefix-match", "yes"), await transplant("o", "--k", "6")];
    compareRows(all[EMBEDDING], expected[`prefix/${EMBEDDING}`]);
    const half = await transplant("q", "--k", "6", "--prefix-match", "embed");
    assert.deepEqual([half[EMBEDDING], half[HEAD]], [all[EMBEDDING], none[HEAD]]);
    const head = await transplant("r", "--k", "6", "--prefix-match", "lm_head");
    assert.deepEqual([head[EMBEDDING], head[HEAD]], [none[EMBEDDING], all[HEAD]]);
  });

  test("a tied model stays tied, and a tied donor serves a model that is not", async () => {
    const omit = async (model: string, out: string): Promise<void> => {
      const { [HEAD]: _, ...tensors } = await readPlainModel(path.join(cwd, model));
      cpSync(path.join(cwd, model), path.join(cwd, out), { recursive: true });
      const config = { ...readJson(`${model}/config.json`), tie_word_embeddings: true };
      writePlainModel(path.join(cwd, out), "model.safetensors", tensors, { "config.json": config });
    };
    await omit("base", "tied-base");
    await omit("donor", "tied-donor");
    const call = (...args: readonly string[]) => runJson(cwd, "transplant", ...args, "--k", "6");
    await call("tied-base", "--tokenizer", "donor", "--out", "tied");
    const tied = await readPlainModel(path.join(cwd, "tied"));
    assert.equal(tied[HEAD], undefined);
    compareRows(tied[EMBEDDING], expected[`omp/${EMBEDDING}`]);
    await call("base", "--tokenizer", "tied-donor", "--out", "untied");
    const untied = await readPlainModel(path.join(cwd, "untied"));
    assert.deepEqual(untied[EMBEDDING], tied[EMBEDDING]);
    assert.notDeepEqual(untied[HEAD], untied[EMBEDDING]);
  });
});

/** A model of the tokens, one row each and more; a bias of the head goes with it. */
function writeModel(folder: string, tokens: readonly string[], tensors: Readonly<Record<string, readonly number[]>>) {
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const made = Object.entries(tensors).map(([name, shape], at) => {
    const count = shape.reduce((product, length) => product * length, 1);
    return [name, { shape, values: plainNumbers(count, at + 1) }] as const;
  });
  writePlainModel(path.join(cwd, folder), "model.safetensors", Object.fromEntries(made), {
    "config.json": { vocab_size: tokens.length, eos_token_id: 0, tie_word_embeddings: false },
    "generation_config.json": { eos_token_id: 0, top_k: 3 },
    "tokenizer.json": { model: { type: "WordLevel", vocab } },
  });
}

const [EMBED, LM_HEAD, BIAS] = [EMBEDDING, HEAD, "lm_head.bias"];

describe("transplant of other forms", () => {
  test("a head's bias goes with the head, and rows beyond the tokens fall away", async () => {
    writeModel("b", ["a", "b", "c"], { [EMBED]: [5, 4], [LM_HEAD]: [5, 4], [BIAS]: [5], "model.norm.weight": [5] });
    writeModel("d", ["c", "x", "a", "y", "z"], { [EMBED]: [4, 3], [LM_HEAD]: [4, 3] });
    const result = await runJson(cwd, "transplant", "b", "--tokenizer", "d", "--out", "bd", "--k", "2");
    assert.deepEqual([result.rows, result.shared], [5, 2]);
    const tally = { same: 2, byte: 0, prefix: 0, approximated: 2, unknown: 1 };
    assert.deepEqual(
      result.matrices,
      [EMBED, LM_HEAD, BIAS].map((tensor) => ({ ...tally, tensor })),
    );
    const [before, made] = [await readPlainModel(path.join(cwd, "b")), await readPlainModel(path.join(cwd, "bd"))];
    const [own = [], biases = []] = [before[BIAS]?.values, made[BIAS]?.values];
    assert.deepEqual([biases[0], biases[2]], [own[2], own[0]]);
    assert.equal(biases[4], Math.fround(((own[0] ?? 0) + (own[1] ?? 0) + (own[2] ?? 0)) / 3), "of no row of the donor");
    const heads = rowsOf(made[LM_HEAD] ?? { shape: [], values: [] });
    const old = rowsOf(before[LM_HEAD] ?? { shape: [], values: [] });
    // The weights that make x of c and a in the head make its bias.
    const [c, a, x] = [old[2] ?? [], old[0] ?? [], heads[1] ?? []];
    const determinant = (c[0] ?? 0) * (a[1] ?? 0) - (c[1] ?? 0) * (a[0] ?? 0);
    const ofC = ((x[0] ?? 0) * (a[1] ?? 0) - (x[1] ?? 0) * (a[0] ?? 0)) / determinant;
    const ofA = ((c[0] ?? 0) * (x[1] ?? 0) - (c[1] ?? 0) * (x[0] ?? 0)) / determinant;
    assert.ok(Math.abs((biases[1] ?? 0) - ofC * (own[2] ?? 0) - ofA * (own[0] ?? 0)) < 1e-5);
    assert.deepEqual(readJson("bd/generation_config.json"), { eos_token_id: 0, top_k: 3 });
    assert.equal(readJson("bd/config.json").vocab_size, 5);
  });

  test("what cannot be right is refused", async () => {
    const both = { [EMBED]: [3, 4], [LM_HEAD]: [3, 4] };
    writeModel("ok", ["a", "b", "c"], both);
    writeModel("other", ["x", "y", "z"], both);
    writeModel("near", ["a", "b", "c", "d"], { [EMBED]: [4, 4], [LM_HEAD]: [4, 4] });
    const own = await runJson(cwd, "transplant", "ok", "--tokenizer", "ok", "--out", "few");
    assert.equal(own.shared, 3, "nothing is to be combined");
    writeModel("headless", ["a", "b", "c"], { [EMBED]: [3, 4] });
    writeModel("bare", ["a", "b", "c"], { "model.norm.weight": [4] });
    writeModel("uneven", ["a", "b", "c"], { ...both, [LM_HEAD]: [4, 4] });
    writeModel("more", ["a", "b", "c"], { ...both, "model.per_layer_rows.weight": [3, 2] });
    writeModel("mute", ["a", "b", "c"], both);
    rmSync(path.join(cwd, "mute/tokenizer.json"));
    writeModel("broken", ["a", "b", "c"], both);
    writeFileSync(path.join(cwd, "broken/tokenizer.json"), "{}");
    const cases = [
      ["ok", "other", "TransplantSharedTooFew", "0 tokens that both models have"],
      ["ok", "near", "TransplantSharedTooFew", "3 tokens that both models have"],
      ["headless", "ok", "TransplantMatrixMissing", "no head"],
      ["ok", "headless", "TransplantMatrixMissing", "no head"],
      ["bare", "ok", "TransplantMatrixMissing", "no embedding"],
      ["ok", "bare", "TransplantMatrixMissing", "no embedding"],
      ["uneven", "ok", "PlanShapeMismatch", "[4, 4]"],
      ["more", "ok", "PlanShapeMismatch", "[3, 2]"],
      ["mute", "ok", "PlanTokenizerMissing", "no tokenizer.json"],
      ["ok", "mute", "PlanTokenizerMissing", "no tokenizer.json"],
      ["ok", "broken", "PlanTokenizerInvalid", undefined],
    ] as const;
    for (const [base, donor, code, found] of cases) {
      const refused = await runJson(cwd, "transplant", base, "--tokenizer", donor, "--out", "no", "--k", "4");
      assert.equal(refused.code, code, `${base} ${donor}: ${JSON.stringify(refused)}`);
      if (found !== undefined) assert.equal(refused.found, found);
    }
    const words = await runJson(cwd, "transplant", "ok", "--tokenizer", "other", "--out", "no", "--method", "subword");
    assert.equal(words.code, "PlanTokenizerNotSupported");
    for (const idle of [
      ["--method", "mean", "--k", "4"],
      ["--method", "subword", "--weight-scheme", "barycentric"],
      ["--subword-method", "sum"],
    ]) {
      const refused = await runJson(cwd, "transplant", "ok", "--tokenizer", "ok", "--out", "no", ...idle);
      assert.equal(refused.code, "CliUsage", idle.join(" "));
    }
  });
});
