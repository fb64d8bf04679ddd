// The command line: its grammar, and the way from a thrown error to one block on stderr and an exit status. What a
// command does is in cli/commands/, one file each; those load the parts they need when they run, so that `--help` and
// local work stay quick.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { MergeyardError } from "../core/error.ts";
import { addAlign } from "./commands/align.ts";
import { addCancel } from "./commands/cancel.ts";
import { addConvert } from "./commands/convert.ts";
import { addDerive } from "./commands/derive.ts";
import { addDiff } from "./commands/diff.ts";
import { addGc } from "./commands/gc.ts";
import { addInit } from "./commands/init.ts";
import { addInspect } from "./commands/inspect.ts";
import { addKeygen } from "./commands/keygen.ts";
import { addLogs } from "./commands/logs.ts";
import { addLora } from "./commands/lora.ts";
import { addLs } from "./commands/ls.ts";
import { addMerge } from "./commands/merge.ts";
import { addMergeExperts } from "./commands/merge-experts.ts";
import { addPlan } from "./commands/plan.ts";
import { addPromote } from "./commands/promote.ts";
import { addPull } from "./commands/pull.ts";
import { addPush } from "./commands/push.ts";
import { addQuantize } from "./commands/quantize.ts";
import { addReport } from "./commands/report.ts";
import { addRollback } from "./commands/rollback.ts";
import { addRun } from "./commands/run.ts";
import { addShow } from "./commands/show.ts";
import { addVerify } from "./commands/verify.ts";
import { EXIT, exitStatus, renderError, toMergeyardError } from "./error-block.ts";
import type { Terminal } from "./terminal.ts";

/** In the order of the help text. */
const COMMANDS = [
  addMerge,
  addInspect,
  addDiff,
  addConvert,
  addQuantize,
  addDerive,
  addLora,
  addAlign,
  addMergeExperts,
  addVerify,
  addInit,
  addPlan,
  addRun,
  addCancel,
  addLogs,
  addReport,
  addPush,
  addPull,
  addLs,
  addShow,
  addPromote,
  addRollback,
  addGc,
  addKeygen,
];

/** Runs one command line (without `node` and the program's name); resolves to the exit status, never rejects. */
export async function main(args: readonly string[], terminal: Terminal): Promise<number> {
  try {
    await buildProgram(terminal).parseAsync([...args], { from: "user" });
    return EXIT.done;
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) return EXIT.done;
    // `mergeyard` alone: commander has printed the help.
    if (thrown instanceof CommanderError && thrown.code === "commander.help") return EXIT.usage;
    const isTold = thrown instanceof MergeyardError && thrown.code === "CliInterrupted";
    const error =
      terminal.signal.aborted && !isTold
        ? new MergeyardError("CliInterrupted", { cause: thrown })
        : thrown instanceof CommanderError
          ? usageError(thrown)
          : toMergeyardError(thrown);
    terminal.stderr.write(renderError(error, args.includes("--json")));
    return exitStatus(error);
  }
}

/** Runs the command line of this process: real streams, ^C, and the exit status. */
export async function runMain(): Promise<void> {
  const interruption = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => {
      // The second time, whoever asks does not want to wait for the cleaning up.
      if (interruption.signal.aborted) process.exit(EXIT.interrupted);
      interruption.abort(new MergeyardError("CliInterrupted", { found: signal }));
    });
  }
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    // The reader of a pipe has gone (`| head`): there is nobody left to print for.
    if (error.code !== "EPIPE") throw error;
    process.exit(EXIT.done);
  });
  process.exitCode = await main(process.argv.slice(2), {
    stdout: process.stdout,
    stderr: process.stderr,
    cwd: process.cwd(),
    env: process.env,
    now: Date.now,
    signal: interruption.signal,
  });
}

function buildProgram(terminal: Terminal): Command {
  const program = new Command("mergeyard")
    .description("Merge model checkpoints, and publish the result as immutable versions.")
    .version(readVersion(), "--version", "print the version")
    .helpCommand(false)
    .showSuggestionAfterError()
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void terminal.stdout.write(text),
      writeErr: (text) => void terminal.stderr.write(text),
      // Errors are printed once, as a block, by `main`.
      outputError: () => {},
    });
  for (const add of COMMANDS) add(program, terminal);
  return program;
}

function usageError(error: CommanderError): MergeyardError {
  const found = error.message.replace(/^error: /, "").replaceAll("\n", " ");
  return new MergeyardError("CliUsage", { found, cause: error });
}

function readVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
  assert(typeof manifest === "object" && manifest !== null && "version" in manifest);
  return String(manifest.version);
}
