// `--force` of convert, quantize and derive: a command runs again over its own earlier output, and over nothing else.
import assert from "node:assert/strict";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "./recorder.ts";

const MODELS = path.resolve(import.meta.dirname, "../../examples/models");
const [BASE, PYTHON] = [path.join(MODELS, "base"), path.join(MODELS, "python")];
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-force-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

async function call(...args: readonly string[]) {
  const terminal = createRecorder({ cwd: scratch });
  const status = await main([...args, "--json"], terminal);
  const error = status === 0 ? undefined : JSON.parse(terminal.err().trimEnd().split("\n").at(-1) ?? "").error;
  return { status, code: error?.code, found: error?.found, hint: String(error?.hint) };
}

/** Bytes of every file of a folder or of a file, by its path. */
function bytesOf(name: string): Readonly<Record<string, string>> {
  const place = path.join(scratch, name);
  if (statSync(place).isFile()) return { [name]: readFileSync(place, "base64") };
  const files = readdirSync(place, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = files.map((entry) => path.join(entry.parentPath, entry.name)).sort();
  return Object.fromEntries(paths.map((file) => [file, readFileSync(file, "base64")]));
}

/** Commands that make `out` from a model, each with a second way to make something else in its place. */
const FOLDERS: Readonly<Record<string, (model: string, out: string) => readonly string[]>> = {
  safetensors: (model, out) => ["convert", model, "--to", "safetensors", "--out", out],
  dcp: (model, out) => ["convert", model, "--to", "dcp", "--out", out],
  quantized: (model, out) => ["quantize", model, "--scheme", "fp8_dynamic", "--out", out],
  derived: (model, out) => ["derive", `int8-${path.basename(model)}`, "--bits", "4", "--out", out],
};

test("a folder that was made with --force is replaced by --force, while it holds nothing else", async () => {
  for (const model of [BASE, PYTHON]) {
    const made = await call("quantize", model, "--scheme", "int8_channel", "--out", `int8-${path.basename(model)}`);
    assert.equal(made.status, 0);
  }
  for (const [out, command] of Object.entries(FOLDERS)) {
    assert.equal((await call(...command(BASE, out), "--force")).status, 0, out);
    const first = bytesOf(out);
    const refused = await call(...command(PYTHON, out));
    assert.deepEqual([refused.code, refused.found], ["CliOutputOccupied", "a former output"], out);
    assert.match(refused.hint, /--force/);
    assert.deepEqual(bytesOf(out), first, out);
    assert.equal((await call(...command(PYTHON, out), "--force")).status, 0, out);
    const second = bytesOf(out);
    assert.notDeepEqual(second, first, out);
    for (const [name, text] of [
      ["notes.txt", "mine"],
      ["deeper/notes.txt", "mine"],
      ["config.json", `${readFileSync(path.join(scratch, out, "config.json"), "utf8")} `],
    ] as const) {
      const file = path.join(scratch, out, name);
      const before = name === "config.json" ? readFileSync(file) : undefined;
      mkdirSync(path.dirname(file), { recursive: true });
      writeFileSync(file, text);
      const foreign = await call(...command(BASE, out), "--force");
      assert.deepEqual([foreign.code, foreign.found], ["CliOutputOccupied", name], out);
      assert.equal(readFileSync(file, "utf8"), text);
      if (before === undefined) rmSync(path.join(scratch, out, name.split("/")[0] ?? ""), { recursive: true });
      else writeFileSync(file, before);
    }
    mkdirSync(path.join(scratch, out, "empty"));
    assert.equal((await call(...command(BASE, out), "--force")).found, "empty");
  }
  assert.deepEqual(
    readdirSync(scratch).filter((name) => name.startsWith(".")),
    [],
    "nothing is left beside them",
  );
});

test("a plain folder has no record, and is not known again; a universal checkpoint is", async () => {
  assert.equal((await call("convert", BASE, "--to", "safetensors", "--out", "plain")).status, 0);
  assert.ok(!readdirSync(path.join(scratch, "plain")).includes(".mergeyard"));
  const refused = await call("convert", PYTHON, "--to", "safetensors", "--out", "plain", "--force");
  assert.deepEqual([refused.code, refused.found], ["CliOutputOccupied", "config.json"]);
  assert.match(refused.hint, /itself made with --force/);
  const universal = (model: string, ...more: readonly string[]) =>
    call("convert", model, "--to", "universal", "--out", "universal", ...more);
  assert.equal((await universal(BASE)).status, 0);
  const first = bytesOf("universal");
  assert.equal((await universal(PYTHON)).code, "CliOutputOccupied");
  assert.equal((await universal(PYTHON, "--force")).status, 0);
  assert.notDeepEqual(bytesOf("universal"), first);
  assert.ok(!readdirSync(path.join(scratch, "universal")).includes(".mergeyard"), "its own document is enough");
});

test("what fails or is killed leaves the former output", async () => {
  assert.equal((await call("convert", BASE, "--to", "universal", "--out", "kept")).status, 0);
  const first = bytesOf("kept");
  mkdirSync(path.join(scratch, "damaged"));
  writeFileSync(path.join(scratch, "damaged/model.safetensors"), "not a header");
  assert.equal((await call("convert", "damaged", "--to", "universal", "--out", "kept", "--force")).status, 1);
  assert.deepEqual(bytesOf("kept"), first);
  // Killed between the two renames: 2^22 is beyond every process that Linux numbers.
  renameSync(path.join(scratch, "kept"), path.join(scratch, `.kept.partial-${hostname()}-4194305-0a0b0c0d.former`));
  assert.equal((await call("convert", PYTHON, "--to", "universal", "--out", "kept")).code, "CliOutputOccupied");
  assert.deepEqual(bytesOf("kept"), first);
});

test("a GGUF file is replaced by one of the same model, and nothing else is", async () => {
  const quantize = (model: string, scheme: string, ...more: readonly string[]) =>
    call("quantize", model, "--scheme", scheme, "--out", "model.gguf", ...more);
  assert.equal((await quantize(BASE, "q8_0")).status, 0);
  const first = bytesOf("model.gguf");
  assert.equal((await quantize(BASE, "q4_0")).code, "YardTargetOccupied");
  assert.equal((await quantize(BASE, "q4_0", "--force")).status, 0);
  const second = bytesOf("model.gguf");
  assert.notDeepEqual(second, first);
  assert.equal((await call("convert", BASE, "--to", "gguf", "--out", "model.gguf", "--force")).status, 0);
  assert.equal((await quantize(BASE, "q8_0", "--force")).status, 0);
  assert.deepEqual(bytesOf("model.gguf"), first);
  const budget = ["quantize", BASE, "--budget", "5bpw", "--out", "model.gguf", "--force"];
  assert.equal((await call(...budget)).status, 0);
  const other = await quantize(path.join(MODELS, "tokens-english"), "q8_0", "--force");
  assert.deepEqual([other.code, /of another model/.test(other.found)], ["YardTargetOccupied", true]);
  writeFileSync(path.join(scratch, "model.gguf"), "mine");
  const foreign = await quantize(BASE, "q8_0", "--force");
  assert.deepEqual([foreign.code, foreign.found], ["YardTargetOccupied", "no GGUF file"]);
  assert.equal(readFileSync(path.join(scratch, "model.gguf"), "utf8"), "mine");
});

test("a set of files and an object store's folder are not replaced", async () => {
  const split = ["quantize", BASE, "--scheme", "q8_0", "--out", "set.gguf", "--split-max-tensors", "20"];
  assert.equal((await call(...split)).status, 0);
  const refused = await call(...split, "--force");
  assert.equal(refused.code, "YardTargetOccupied");
  assert.match(refused.hint, /of the set/);
  const remote = await call("convert", BASE, "--to", "universal", "--out", "s3://bucket/out", "--force");
  assert.deepEqual([remote.status, remote.code], [2, "CliUsage"]);
});
