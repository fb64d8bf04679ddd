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
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-places-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
writeFileSync(path.join(scratch, "file"), "mine");
mkdirSync(path.join(scratch, "folder"));
writeFileSync(path.join(scratch, "folder/notes.txt"), "mine");

async function call(...args: readonly string[]) {
  const terminal = createRecorder({ cwd: scratch });
  const status = await main([...args, "--json"], terminal);
  const error = status === 0 ? undefined : JSON.parse(terminal.err().trimEnd().split("\n").at(-1) ?? "").error;
  return { code: error?.code, where: error?.where };
}

const BUDGET = ["--budget", "5bpw", "--candidates", "q4_0,q8_0"];

test("a file that is asked for beside the result is refused by its name, a plan before it is measured", async () => {
  for (const [place, found] of [
    ["absent/x", "ENOENT"],
    ["file/x", "ENOTDIR"],
    ["folder", "EISDIR"],
  ] as const) {
    const file = path.join(scratch, place);
    const save = await call("quantize", BASE, ...BUDGET, "--save-plan", place, "--out", `of-${found}.gguf`);
    assert.deepEqual([save.code, save.where], ["CliFileNotWritten", { file }]);
    assert.ok(!readdirSync(scratch).includes(`of-${found}.gguf`), "nothing was begun");
    assert.equal((await call("diff", BASE, PYTHON, "--html", place)).code, "CliFileNotWritten");
    const report = await call("quantize", BASE, "--scheme", "q8_0", "--report", place, "--out", `r-${found}.gguf`);
    assert.equal(report.code, "CliFileNotWritten");
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
