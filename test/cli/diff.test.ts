// `mergeyard diff`: what it prints, and the page that it draws.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { main } from "../../cli/main.ts";
import { writePlainModel } from "./model-files.ts";
import { createRecorder } from "./recorder.ts";

const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-diff-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const UP = "model.layers.0.mlp.up_proj.weight";
const same = { shape: [2], values: [1, 2] };
writePlainModel(path.join(scratch, "a"), "model.safetensors", { [UP]: { shape: [2], values: [3, 4] }, same });
writePlainModel(path.join(scratch, "b"), "model.safetensors", { [UP]: { shape: [2], values: [3, 4.5] }, same });

async function diff(...args: readonly string[]) {
  const terminal = createRecorder({ cwd: scratch });
  return { status: await main(["diff", ...args], terminal), out: terminal.out(), err: terminal.err() };
}

test("--html draws the numbers that are printed, and changes nothing of what is printed", async () => {
  const plain = await diff("a", "b");
  const drawn = await diff("a", "b", "--html", "page.html");
  assert.deepEqual([drawn.status, drawn.out], [0, plain.out], drawn.err);
  assert.equal(
    plain.out,
    [
      "tensor                             dtype  changed  largest  relative",
      `${UP}  F32     1 of 2    0.500     0.100`,
      "1 tensor equal, 1 changed\n",
    ].join("\n"),
  );
  const page = readFileSync(path.join(scratch, "page.html"), "utf8");
  const cells = ["F32", "1 of 2", "0.500", "0.100"].map((cell) => `<td>${cell}</td>`).join("");
  assert.ok(page.includes(`<td><code>${UP}</code></td>${cells}`), page);
  assert.match(page, /<code>a<\/code>, safetensors, 2 tensors/);
  assert.match(page, /<text[^>]*>mlp\.up_proj<\/text>/);
  assert.doesNotMatch(page, /<script|https?:|src=|@import/);
});

test("two names of one checkpoint make a page that says so; --json prints the result alone", async () => {
  const { status, out } = await diff("a", "a/model.safetensors", "--json", "--html", "equal.html");
  assert.equal(status, 0);
  assert.deepEqual([JSON.parse(out).equal, JSON.parse(out).changed], [2, []]);
  assert.match(readFileSync(path.join(scratch, "equal.html"), "utf8"), /No tensor differs\./);
});

test("the result is printed though there is no room for the page", async () => {
  const file = path.join(scratch, "full.html");
  symlinkSync("/dev/full", file);
  const { status, out, err } = await diff("a", "b", "--json", "--html", "full.html");
  const { error } = JSON.parse(err);
  assert.deepEqual([status, error.code, error.where, error.found], [1, "CliFileNotWritten", { file }, "ENOSPC"]);
  assert.equal(JSON.parse(out).changed[0].name, UP);
});

test("a page of a diff that fails is not written", async () => {
  const { status, err } = await diff("a", "none", "--json", "--html", "never.html");
  assert.deepEqual([status, JSON.parse(err).error.code], [1, "CliSourceMissing"]);
  assert.ok(!existsSync(path.join(scratch, "never.html")));
});
