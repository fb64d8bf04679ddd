import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import path from "node:path";
import test from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "./recorder.ts";

const ROOT = path.resolve(import.meta.dirname, "../..");
const BIN = path.join(ROOT, "cli/mergeyard.mjs");

/** The code of the error that a run with --json left on stderr. */
function errorOf(text: string): { code: string; found?: string; where: Record<string, unknown> } {
  return JSON.parse(text).error;
}

test("--help prints the commands on stdout and exits with 0", async () => {
  const terminal = createRecorder();
  assert.equal(await main(["--help"], terminal), 0);
  assert.match(terminal.out(), /^Usage: mergeyard/);
  for (const command of ["inspect", "init", "ls"]) assert.match(terminal.out(), new RegExp(`^ {2}${command} `, "m"));
  assert.equal(terminal.err(), "");
});

test("what a run is told and what its plan reckons with have one default of threads", async () => {
  for (const command of ["run", "serve", "plan"]) {
    const terminal = createRecorder();
    assert.equal(await main([command, "--help"], terminal), 0);
    assert.match(terminal.out().replace(/\s+/g, " "), /--threads <n> threads of a worker process \(.*4 at most\)/);
  }
});

test("no command prints the help on stderr and is a usage error", async () => {
  const terminal = createRecorder();
  assert.equal(await main([], terminal), 2);
  assert.match(terminal.err(), /^Usage: mergeyard/);
  assert.equal(terminal.out(), "");
});

test("--version prints the package's version", async () => {
  const terminal = createRecorder();
  assert.equal(await main(["--version"], terminal), 0);
  assert.equal(terminal.out().trim(), JSON.parse(readFileSync(path.join(ROOT, "package.json"), "utf8")).version);
});

test("every way to misuse the grammar is one CliUsage block and status 2", async () => {
  const misuses = [
    ["lst"],
    ["ls"],
    ["ls", "--json", "--yard"],
    ["ls", "--yard", "y", "--nope"],
    ["inspect"],
    ["inspect", "a", "b"],
    ["push", "d", "m", "--yard", "y", "--every", "5"],
    ["run", "p.yaml", "--yard", "y", "--poll", "1"],
    ["run", "p.yaml", "--yard", "y", "--state-machine", "arn"],
    ["run", "p.yaml", "--yard", "y", "--remote", "--threads", "2"],
  ];
  for (const args of misuses) {
    const terminal = createRecorder();
    assert.equal(await main(args.includes("--json") ? args : [...args, "--json"], terminal), 2, args.join(" "));
    assert.equal(errorOf(terminal.err()).code, "CliUsage", args.join(" "));
    assert.equal(terminal.out(), "");
  }
});

test("a misspelt command is answered with the nearest one", async () => {
  const terminal = createRecorder();
  await main(["inspct", "--json"], terminal);
  assert.match(errorOf(terminal.err()).found ?? "", /inspect/);
});

test("a path that leads nowhere is refused with status 1 and named", async () => {
  const terminal = createRecorder({ cwd: "/nowhere" });
  assert.equal(await main(["inspect", "models/missing", "--json"], terminal), 1);
  const { code, where } = errorOf(terminal.err());
  assert.equal(code, "CliSourceMissing");
  assert.equal(where.file, "/nowhere/models/missing");
});

const MISTAKEN: readonly (readonly [string, readonly string[], object])[] = [
  ["a folder for a recipe", ["merge", "examples", "--out", "x"], { code: "CliSourceMissing", found: "a folder" }],
  ["nothing to verify", ["verify", "no-such-folder"], { code: "CliSourceMissing", found: undefined }],
  ["a file to verify", ["verify", "README.md"], { code: "YardManifestMissing", found: "a file" }],
  ["a URI with one slash", ["init", "s3:/bucket/yard"], { code: "StoreUriInvalid", found: undefined }],
  ["a URI without a bucket", ["ls", "--yard", "s3://"], { code: "StoreUriInvalid", found: "no bucket's name" }],
  [
    "weights without their config",
    ["quantize", "examples/models/lora-python", "--scheme", "q8_0", "--out", "x"],
    { code: "QuantizeModelUnsupported", found: "no such file" },
  ],
  [
    "a folder for a GGUF file",
    ["quantize", "examples/models/base", "--scheme", "q8_0", "--out", "examples"],
    { code: "CliOutputOccupied", found: "a folder" },
  ],
];

for (const [what, args, expected] of MISTAKEN) {
  test(`refused with what was found: ${what}`, async () => {
    const terminal = createRecorder({ cwd: ROOT });
    assert.equal(await main([...args, "--json"], terminal), 1);
    const { code, found } = errorOf(terminal.err());
    assert.deepEqual({ code, found }, expected);
    assert.equal(existsSync(path.join(ROOT, "s3:")), false);
  });
}

test("an interrupted command says so and exits with 130", async () => {
  const terminal = createRecorder({ cwd: ROOT });
  terminal.interrupt();
  assert.equal(await main(["inspect", "examples/models/base", "--json"], terminal), 130);
  assert.equal(errorOf(terminal.err()).code, "CliInterrupted");
});

test("help and local commands load neither the S3 client nor the kernels", () => {
  // Goal: start-up stays quick. Method: the real program, with a loader hook that prints every module it resolves.
  const script = `
    import { registerHooks } from "node:module";
    registerHooks({ resolve(specifier, context, next) {
      if (/@aws-sdk|@smithy|jsonata|\\.wasm/.test(specifier)) process.stderr.write("LOADED " + specifier + "\\n");
      return next(specifier, context);
    } });`;
  const hook = `data:text/javascript,${encodeURIComponent(script)}`;
  for (const args of [["--help"], ["inspect", "examples/models/base", "--json"]]) {
    const run = spawnSync(process.execPath, ["--import", hook, BIN, ...args], { cwd: ROOT, encoding: "utf8" });
    assert.equal(run.status, 0, run.stderr);
    assert.doesNotMatch(run.stderr, /LOADED/);
  }
});

test("a reader that goes away ends the program quietly", () => {
  const run = spawnSync("sh", ["-c", `"${process.execPath}" "${BIN}" --help | head -c 1`], { encoding: "utf8" });
  assert.equal(run.stderr, "");
});

test("a result that cannot be printed is one error", {
  skip: !existsSync("/dev/full") && "no full device here",
}, () => {
  const full = openSync("/dev/full", "w");
  const run = spawnSync(process.execPath, [BIN, "inspect", "examples/models/base", "--json"], {
    cwd: ROOT,
    encoding: "utf8",
    stdio: ["ignore", full, "pipe"],
  });
  closeSync(full);
  const { error } = JSON.parse(run.stderr);
  assert.deepEqual([run.status, error.code, error.found], [1, "CliPrintFailed", "ENOSPC"]);
});
