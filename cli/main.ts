// The command line: its grammar, and the way from a thrown error to one block on stderr and an exit status. What a
// command does is in cli/commands/, one file each. Of these only the one that is called is loaded: most of what a small
// command costs is loading code.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { hasCode, MergeyardError } from "../core/error.ts";
import { EXIT, exitStatus, renderError, toMergeyardError } from "./error-block.ts";
import { mergekitHint } from "./mergekit-options.ts";
import type { Terminal } from "./terminal.ts";

type AddCommand = (program: Command, terminal: Terminal) => void;

/** Each in a file that is loaded when the command is meant; in the order of the help text. */
const COMMANDS: Readonly<Record<string, () => Promise<AddCommand>>> = {
  merge: async () => (await import("./commands/merge.ts")).addMerge,
  inspect: async () => (await import("./commands/inspect.ts")).addInspect,
  diff: async () => (await import("./commands/diff.ts")).addDiff,
  convert: async () => (await import("./commands/convert.ts")).addConvert,
  quantize: async () => (await import("./commands/quantize.ts")).addQuantize,
  derive: async () => (await import("./commands/derive.ts")).addDerive,
  lora: async () => (await import("./commands/lora.ts")).addLora,
  align: async () => (await import("./commands/align.ts")).addAlign,
  "merge-experts": async () => (await import("./commands/merge-experts.ts")).addMergeExperts,
  transplant: async () => (await import("./commands/transplant.ts")).addTransplant,
  verify: async () => (await import("./commands/verify.ts")).addVerify,
  init: async () => (await import("./commands/init.ts")).addInit,
  plan: async () => (await import("./commands/plan.ts")).addPlan,
  run: async () => (await import("./commands/run.ts")).addRun,
  serve: async () => (await import("./commands/serve.ts")).addServe,
  cancel: async () => (await import("./commands/cancel.ts")).addCancel,
  logs: async () => (await import("./commands/logs.ts")).addLogs,
  report: async () => (await import("./commands/report.ts")).addReport,
  push: async () => (await import("./commands/push.ts")).addPush,
  publish: async () => (await import("./commands/publish.ts")).addPublish,
  pull: async () => (await import("./commands/pull.ts")).addPull,
  ls: async () => (await import("./commands/ls.ts")).addLs,
  show: async () => (await import("./commands/show.ts")).addShow,
  promote: async () => (await import("./commands/promote.ts")).addPromote,
  rollback: async () => (await import("./commands/rollback.ts")).addRollback,
  gc: async () => (await import("./commands/gc.ts")).addGc,
  keygen: async () => (await import("./commands/keygen.ts")).addKeygen,
};

/** Runs one command line (without `node` and the program's name); resolves to the exit status, never rejects. */
export async function main(args: readonly string[], terminal: Terminal): Promise<number> {
  try {
    const program = await buildProgram(args[0] ?? "", terminal);
    await program.parseAsync([...args], { from: "user" });
    return EXIT.done;
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) return EXIT.done;
    // `mergeyard` alone: commander has printed the help.
    if (thrown instanceof CommanderError && thrown.code === "commander.help") return EXIT.usage;
    const error =
      terminal.signal.aborted && !hasCode(thrown, "CliInterrupted")
        ? new MergeyardError("CliInterrupted", { cause: thrown })
        : thrown instanceof CommanderError
          ? await usageError(thrown, args[0])
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
    if (error.code === "EPIPE") process.exit(EXIT.done);
    const failure = new MergeyardError("CliPrintFailed", { found: error.code, cause: error });
    process.stderr.write(renderError(failure, process.argv.includes("--json")));
    process.exit(EXIT.failed);
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

/** The program with the command that is called, or with all of them where none is known by that name. */
async function buildProgram(called: string, terminal: Terminal): Promise<Command> {
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
  const meant = Object.hasOwn(COMMANDS, called) ? [COMMANDS[called]] : Object.values(COMMANDS);
  for (const add of await Promise.all(meant.map((load) => load?.()))) add?.(program, terminal);
  return program;
}

async function usageError(error: CommanderError, command: string | undefined): Promise<MergeyardError> {
  const found = error.message.replace(/^error: /, "").replaceAll("\n", " ");
  const [, option] = /unknown option '([^'=]+)/.exec(found) ?? [];
  if (command !== "merge" || option === undefined) return new MergeyardError("CliUsage", { found, cause: error });
  return new MergeyardError("CliUsage", { found, hint: mergekitHint(option), cause: error });
}

function readVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
  assert(typeof manifest === "object" && manifest !== null && "version" in manifest);
  return String(manifest.version);
}
