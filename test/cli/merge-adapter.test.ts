// Goal: a model with a real adapter is what PEFT would merge. Method: the formula W + (alpha / r) B A on the example
// adapter, read and computed without any of our own code, against `mergeyard merge`; and the same from a yard.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import test, { after } from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "./recorder.ts";

const MODELS = path.resolve(import.meta.dirname, "../../examples/models");
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-adapter-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

async function run(...args: readonly string[]): Promise<Record<string, unknown>> {
  const terminal = createRecorder({ cwd: scratch });
  const status = await main([...args, "--json"], terminal);
  assert.equal(status, 0, terminal.err());
  return JSON.parse(terminal.out());
}

type Tensor = { readonly shape: readonly number[]; readonly values: Float32Array };

/** Every tensor of a folder's safetensors files, as float32. */
function readTensors(folder: string): ReadonlyMap<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  for (const name of readdirSync(folder).filter((file) => file.endsWith(".safetensors"))) {
    const bytes = readFileSync(path.join(folder, name));
    const start = 8 + Number(bytes.readBigUInt64LE(0));
    const header: Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }> = JSON.parse(
      bytes.toString("utf8", 8, start),
    );
    for (const [tensor, entry] of Object.entries(header)) {
      if (tensor === "__metadata__") continue;
      const { dtype, shape, data_offsets: offsets } = entry;
      const [from, to] = offsets;
      const data = new Uint8Array(bytes.subarray(start + from, start + to)).buffer;
      const wide = (half: number) => new Float32Array(new Uint32Array([half << 16]).buffer)[0] ?? 0;
      assert.ok(dtype === "F32" || dtype === "BF16", dtype);
      const values = dtype === "F32" ? new Float32Array(data) : Float32Array.from(new Uint16Array(data), wide);
      tensors.set(tensor, { shape, values });
    }
  }
  return tensors;
}

function nearestBf16(value: number): number {
  const bits = new Uint32Array(new Float32Array([value]).buffer)[0] ?? 0;
  const rounded = (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(new Uint32Array([rounded >>> 0]).buffer)[0] ?? 0;
}

/** W + 2 B A in float64: the adapter's alpha is 16, its rank 8. */
function adapt(weight: Tensor, a: Tensor, b: Tensor): Float64Array {
  const [rows = 0, columns = 0] = weight.shape;
  return Float64Array.from(weight.values, (value, index) => {
    const [row, column] = [Math.floor(index / columns), index % columns];
    assert.ok(row < rows);
    let sum = 0;
    for (let k = 0; k < 8; k++) sum += (b.values[row * 8 + k] ?? 0) * (a.values[k * columns + column] ?? 0);
    return value + 2 * sum;
  });
}

test("an adapter is merged into every weight that it trains, and nothing else changes", async () => {
  const recipe = path.join(scratch, "one.yaml");
  writeFileSync(recipe, `merge_method: passthrough\nmodels:\n  - model: ${MODELS}/base+${MODELS}/lora-shakespeare\n`);
  await run("merge", recipe, "--out", path.join(scratch, "one"));
  const [merged, base, adapter] = [path.join(scratch, "one"), `${MODELS}/base`, `${MODELS}/lora-shakespeare`].map(
    readTensors,
  );
  assert.ok(merged !== undefined && base !== undefined && adapter !== undefined);
  assert.deepEqual([...merged.keys()].sort(), [...base.keys()].sort());
  let adapted = 0;
  for (const [name, { values }] of merged) {
    const weight = base.get(name);
    const module = `base_model.model.${name.replace(/\.weight$/, "")}`;
    const [a, b] = [adapter.get(`${module}.lora_A.weight`), adapter.get(`${module}.lora_B.weight`)];
    assert.ok(weight !== undefined);
    if (a === undefined || b === undefined) {
      assert.deepEqual(values, weight.values, name);
      continue;
    }
    adapted += 1;
    const expected = adapt(weight, a, b);
    // float32 sums may fall to the other side of a tie in BF16, and keep less where the terms cancel out.
    const wrong = values.findIndex((value, index) => {
      const exact = expected[index] ?? 0;
      return value !== nearestBf16(exact) && Math.abs(value - exact) > Math.abs(exact) * 2 ** -8 + 1e-8;
    });
    assert.equal(wrong, -1, `${name}[${wrong}]: ${values[wrong]}, not ${expected[wrong]}`);
    const differing = values.filter((value, index) => value !== nearestBf16(expected[index] ?? 0)).length;
    assert.ok(
      differing <= values.length / 1000,
      `${name}: ${differing} of ${values.length} on the other side of a tie`,
    );
  }
  assert.equal(adapted, 16, "q, v, gate and down of four layers");
});

test("a yard adopts an uploaded adapter and merges it to the same weights", async () => {
  const yard = path.join(scratch, "yard");
  await run("init", yard);
  cpSync(`${MODELS}/base`, path.join(yard, "incoming/base/1"), { recursive: true });
  cpSync(`${MODELS}/lora-python`, path.join(yard, "incoming/snake/1"), { recursive: true });
  const text = (merge: string) =>
    `name: adapted\nmodels: {base: incoming/base, snake: incoming/snake}\nmerge:\n${merge}`;
  const merge = "  merge_method: linear\n  models: [{model: base+snake, parameters: {weight: 1}}]\n  dtype: float32\n";
  const pipeline = path.join(scratch, "adapted.yaml");
  writeFileSync(pipeline, `${text(merge)}publish: {model: adapted, channel: nightly}\n`);
  await run("run", pipeline, "--yard", yard);
  const [version = ""] = readdirSync(path.join(yard, "artifacts/adapted"));
  const folder = path.join(yard, "artifacts/adapted", version);
  const card = readFileSync(path.join(folder, "README.md"), "utf8");
  assert.match(card, /\| base \| sha256:[0-9a-f]{64} \|\n\| snake \| sha256:[0-9a-f]{64} \|/);
  const recipe = path.join(scratch, "two.yaml");
  writeFileSync(
    recipe,
    `${merge.replaceAll(/^ {2}/gm, "").replace("base+snake", `${MODELS}/base+${MODELS}/lora-python`)}`,
  );
  await run("merge", recipe, "--out", path.join(scratch, "two"));
  const [fromYard, fromFolder] = [folder, path.join(scratch, "two")].map((place) =>
    readFileSync(path.join(place, "model.safetensors")),
  );
  assert.ok(fromYard !== undefined && fromFolder !== undefined && fromYard.equals(fromFolder));
});
