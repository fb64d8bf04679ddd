// Places that a user gives for output and that cannot be written: each is an error with a code of its own, never a
// fault of the program.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "./recorder.ts";

const MODELS = path.resolve(import.meta.dirname, "../../examples/models");
const [BASE, PYTHON] = [path.join(MODELS, "base"), path.join(MODELS, "python")];
const LINEAR = path.join(MODELS, "../linear.yaml");
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-places-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
writeFileSync(path.join(scratch, "file"), "mine");
mkdirSync(path.join(scratch, "folder"));
writeFileSync(path.join(scratch, "folder/notes.txt"), "mine");

async function call(...args: readonly string[]) {
  const terminal = createRecorder({ cwd: scratch });
  const status = await main([...args, "--json"], terminal);
  const error = status === 0 ? undefined : JSON.parse(terminal.err().trimEnd().split("\n").at(-1) ?? "").error;
  return { code: error?.code, where: error?.where, found: error?.found };
}

const BUDGET = ["--budget", "5bpw", "--candidates", "q4_0,q8_0"];

test("a file that is asked for beside the result is refused by its name, before the work", async () => {
  for (const [place, found] of [
    ["absent/x", "ENOENT"],
    ["file/x", "ENOTDIR"],
    ["folder", "EISDIR"],
  ] as const) {
    const file = path.join(scratch, place);
    const made = `made-${found}`;
    for (const command of [
      ["quantize", BASE, ...BUDGET, "--save-plan", place, "--out", `${made}.gguf`],
      ["quantize", BASE, "--scheme", "q8_0", "--report", place, "--out", `${made}.gguf`],
      ["quantize", BASE, "--scheme", "fp8_dynamic", "--report", place, "--out", made],
      ["merge", LINEAR, "--report", place, "--out", made],
      ["diff", BASE, PYTHON, "--html", place],
    ]) {
      const { code, where, found: seen } = await call(...command);
      assert.deepEqual([code, where, seen], ["CliFileNotWritten", { file }, found], command.join(" "));
      assert.ok(!readdirSync(scratch).some((name) => name.startsWith(made)), `${command.join(" ")} began`);
    }
    assert.equal((await call("keygen", place)).code, "SigningKeyPlace");
  }
});

test("a folder or a file to make cannot lie in a file or over other files", async () => {
  const folders: readonly (readonly string[])[] = [
    ["convert", BASE, "--to", "torch"],
    ["quantize", BASE, "--scheme", "fp8_dynamic"],
    ["lora", "extract", PYTHON, "--base", BASE, "--rank", "2"],
    ["align", PYTHON, "--to", BASE],
  ];
  for (const command of folders) {
    for (const place of ["file", "file/x", "folder"]) {
      const { code } = await call(...command, "--out", place);
      assert.equal(code, "CliOutputOccupied", `${command[0]} in ${place}`);
    }
  }
  const gguf = (place: string) => call("quantize", BASE, "--scheme", "q8_0", "--out", place);
  assert.equal((await gguf("file/x.gguf")).code, "StorePathOccupied");
  assert.equal((await gguf("folder")).code, "CliOutputOccupied");
  assert.equal((await gguf("file")).code, "YardTargetOccupied");
  assert.equal((await call("init", "file/x")).code, "StorePathOccupied");
  assert.equal((await call("init", "folder")).code, "YardPlaceNotEmpty");
});
