// Planning bits for a small trained model, and quantizing by the plan: the file has the planned size and schemes, and
// what cannot be planned or followed is refused.
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { renderBitPlan } from "../../core/bit-plan/document.ts";
import type { ErrorPlace } from "../../core/error.ts";
import { ggufTypeOf } from "../../core/formats/gguf/type-codes.ts";
import { drawFrontier } from "../../core/report/frontier.ts";
import { BLOCK_SCHEME_IDS } from "../../core/schemes/registry.ts";
import { sampleRuns } from "../../engine/measure-schemes.ts";
import { openGguf } from "../../steps/open-gguf.ts";
import { planBitsStep } from "../../steps/quantize/plan-bits.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { readBitPlan } from "../../steps/quantize/read-bit-plan.ts";
import { runStep } from "../../steps/step.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { OpenStore } from "../../stores/store.ts";
import { createMeasureSchemes } from "../../workers/measure-executor.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { refusal } from "../refusal.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";

const FOLDER = path.resolve(import.meta.dirname, "../../examples/models/base");
const source = pathToFileURL(FOLDER).href;
const target = newStore();
const openStore: OpenStore = (uri) => (uri === target.uri ? target : createDirectoryStore(FOLDER, { durable: false }));

function plan(budget: string, more: Record<string, unknown> = {}) {
  const deps = { ...testDeps(openStore), measureSchemes: createMeasureSchemes(openStore) };
  return runStep(planBitsStep, { source, budget, tokenizer: false, ...more }, deps);
}

function quantize(name: string, scheme: string | Readonly<Record<string, string>>) {
  const deps = { ...testDeps(openStore), executeQuantize: createQuantizeExecutor(openStore).execute };
  return runStep(quantizeStep, { source, target: target.uri, name, scheme, tokenizer: false }, deps);
}

const isInvalid = (where: ErrorPlace) => refusal({ code: "BitPlanInvalid", ...where });

test("a file made by a plan has the planned schemes and bytes, within the budget", async () => {
  const planned = await plan("5bpw");
  assert.ok(planned.isOptimal && planned.bits <= 5 && planned.bits > 4.95, String(planned.bits));
  const text = renderBitPlan("a plan", planned.tensors);
  await putText(target, "plan.yaml", text);
  const read = await readBitPlan(target, "plan.yaml", new AbortController().signal);
  const made = await quantize("planned.gguf", read);
  const { header } = await openGguf(target, "planned.gguf");
  const types = new Map(header.tensors.map(({ name, type }) => [name, type]));
  for (const { tensor, scheme } of planned.tensors) {
    const id = BLOCK_SCHEME_IDS.find((each) => each === scheme);
    assert.equal(types.get(tensor), ggufTypeOf(id ?? "f32"), tensor);
  }
  const first = Math.min(...header.tensors.map(({ offset }) => offset));
  assert.equal(made.bytes - first, planned.bytes);
  assert.equal(made.scheme, "bit plan");
});

test("a file of a budget of bytes is within it, with its tokenizer", async () => {
  const store = newStore();
  const tokens = Object.fromEntries(Array.from({ length: 64 }, (_, index) => [`token ${index}`, index]));
  for await (const { key } of createDirectoryStore(FOLDER, { durable: false }).list("")) {
    if (key === "tokenizer.json") continue;
    const bytes = await readAll(createDirectoryStore(FOLDER, { durable: false }), key, 1e7);
    await writeBytes(store, key, bytes);
  }
  const pre_tokenizer = { type: "ByteLevel", add_prefix_space: false, use_regex: true };
  const tokenizer = { model: { type: "BPE", vocab: tokens, merges: [] }, pre_tokenizer, added_tokens: [] };
  await putText(store, "tokenizer.json", JSON.stringify(tokenizer));
  const open = openerOf(store, target);
  const deps = { ...testDeps(open), measureSchemes: createMeasureSchemes(open) };
  const planned = await runStep(planBitsStep, { source: store.uri, budget: "600kB" }, deps);
  const scheme = Object.fromEntries(planned.tensors.map((each) => [each.tensor, each.scheme]));
  const making = { ...testDeps(open), executeQuantize: createQuantizeExecutor(open).execute };
  const made = await runStep(quantizeStep, { source: store.uri, target: target.uri, name: "600.gguf", scheme }, making);
  assert.ok(made.hasTokenizer && made.bytes <= 600_000 && made.bytes > 590_000, String(made.bytes));
});

test("a plan loses less than the uniform scheme of its size", async () => {
  const uniform = await plan("8bpw", { candidates: ["q5_0"] });
  const planned = await plan(`${(uniform.bits + 1e-6).toFixed(6)}bpw`);
  assert.ok(planned.bytes <= uniform.bytes);
  assert.ok(planned.loss < uniform.loss, `${planned.loss} against ${uniform.loss}`);
});

test("the frontier falls with size, and the price is what the next byte saves", async () => {
  const { frontier, price, loss, bytes } = await plan("5.5bpw", { sensitivity: "relative" });
  for (const [index, point] of frontier.entries()) {
    const before = frontier[index - 1];
    assert.ok(before === undefined || (point.bytes > before.bytes && point.loss < before.loss));
  }
  assert.ok(price > 0);
  const above = frontier.find((point) => point.bytes > bytes);
  assert.ok(above !== undefined && above.loss <= loss);
});

test("a budget, a sensitivity or candidates that cannot be are refused", async () => {
  await assert.rejects(plan("4.5 bits"), isInvalid({ field: "budget" }));
  await assert.rejects(plan("-1bpw"), isInvalid({ field: "budget" }));
  await assert.rejects(plan("2bpw"), isInvalid({ field: "budget" }));
  await assert.rejects(plan("100kB"), isInvalid({ field: "budget" }));
  await assert.rejects(plan("5bpw", { sensitivity: "importance" }), isInvalid({ field: "sensitivity" }));
  await assert.rejects(plan("5bpw", { candidates: ["q4_k"] }), isInvalid({ tensor: "output.weight" }));
});

test("a plan that is not of the model is refused, and nothing is written", async () => {
  const { tensors } = await plan("5bpw");
  const schemes = Object.fromEntries(tensors.map(({ tensor, scheme }) => [tensor, scheme]));
  const { "output.weight": _, ...without } = schemes;
  const refused: readonly (readonly [Readonly<Record<string, string>>, string])[] = [
    [without, "output.weight"],
    [{ ...schemes, "blk.9.attn_k.weight": "q8_0" }, "blk.9.attn_k.weight"],
    [{ ...schemes, "output.weight": "q4_k" }, "output.weight"],
    [{ ...schemes, "output.weight": "q4" }, "output.weight"],
  ];
  for (const [each, tensor] of refused) await assert.rejects(quantize("refused.gguf", each), isInvalid({ tensor }));
  assert.equal(await target.head("refused.gguf"), undefined);
});

test("a file that is no plan is refused with its name", async () => {
  for (const text of [
    "",
    "[",
    "bit_plan: 2\ntensors: {}",
    "bit_plan: 1\ntensors: { a: 4 }",
    "a: *b",
    "- ".repeat(9999),
  ]) {
    await putText(target, "wrong.yaml", text);
    const read = readBitPlan(target, "wrong.yaml", new AbortController().signal);
    await assert.rejects(read, isInvalid({ file: "wrong.yaml" }), text.slice(0, 20));
  }
});

test("samples are runs of rows from first to last that never overlap", () => {
  for (const [rows, columns] of [
    [1, 1],
    [6, 256],
    [1000, 128],
    [1025, 128],
    [1100, 4096],
    [40, 4096],
    [3, 1 << 20],
    [128_256, 4096],
  ] as const) {
    const runs = sampleRuns(rows, columns);
    let end = 0;
    for (const { first, count } of runs) {
      assert.ok(first >= end && count > 0, `${rows} x ${columns}`);
      end = first + count;
    }
    assert.ok(end <= rows);
  }
});

test("the report draws every matrix, and no name in a checkpoint can add to the page", async () => {
  const planned = await plan("5bpw");
  const page = drawFrontier({ ...planned, budget: "<b>5bpw" }).join("");
  for (const { tensor } of planned.tensors) assert.ok(page.includes(tensor));
  assert.ok(!page.includes("<b>"));
  const [, width = "", height = ""] = /viewBox="0 0 (\d+) (\d+)"/.exec(page) ?? [];
  const [, line = ""] = /<polyline points="([^"]+)"/.exec(page) ?? [];
  const points = line.split(" ").map((point) => point.split(",").map(Number));
  assert.ok(points.length > 2);
  for (const [index, [x = 0, y = 0]] of points.entries()) {
    const [lastX = 0, lastY = 0] = points[index - 1] ?? [];
    assert.ok(x > lastX && x < Number(width) && y >= lastY && y < Number(height), `${line}: point ${index}`);
  }
});
