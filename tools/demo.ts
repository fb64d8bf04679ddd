// `npm run demo`: the whole product on real trained models, on this machine, without a network or an account. Makes a
// yard in .demo, drops three checkpoints, and then types the commands that a user would type.
//
//   npm run demo               in .demo, made anew every time
//   npm run demo -- FOLDER     in another folder, which must not be there yet
import { cpSync, existsSync, mkdirSync, rmSync } from "node:fs";
import path from "node:path";
import { main } from "../cli/main.ts";

const ROOT = path.resolve(import.meta.dirname, "..");
const MODELS = ["base", "shakespeare", "python"] as const;

const asked = process.argv[2];
const folder = asked === undefined ? path.join(ROOT, ".demo") : path.resolve(asked);
const shown = asked === undefined ? ".demo" : asked;

const interruption = new AbortController();
process.once("SIGINT", () => interruption.abort());

function say(text: string): void {
  process.stdout.write(`\n${text}\n`);
}

/** Shows a command as it is typed, and runs it; the demo ends where a command fails. */
async function type(...args: readonly string[]): Promise<void> {
  process.stdout.write(`\n$ npx mergeyard ${args.join(" ")}\n`);
  const status = await main(args, {
    stdout: process.stdout,
    stderr: process.stderr,
    cwd: ROOT,
    env: process.env,
    now: Date.now,
    signal: interruption.signal,
  });
  if (status !== 0) process.exit(status);
}

async function demo(): Promise<void> {
  const startedMs = Date.now();
  const [yard, pulled] = [path.join(shown, "yard"), path.join(shown, "bard-and-snake")];

  say("1. A yard is a folder (or an S3 prefix) that holds uploads, versions and channels.");
  await type("init", yard);

  say(
    "2. Teams drop checkpoints into it: a base model and two fine-tunes of it, trained on Shakespeare and on Python.",
  );
  for (const model of MODELS) {
    cpSync(path.join(ROOT, "examples/models", model), path.join(folder, "yard/incoming", model, "1"), {
      recursive: true,
    });
    process.stdout.write(`   examples/models/${model} -> ${path.join(yard, "incoming", model, "1")}\n`);
  }
  await type("inspect", path.join(yard, "incoming/shakespeare/1"));

  say("3. A pipeline says what to merge and what to publish. Its plan is made from the headers, before any work.");
  await type("plan", "examples/pipeline.yaml", "--yard", yard);

  say("4. The run: a state machine plans, starts workers (processes of this machine), checks and publishes.");
  await type("run", "examples/pipeline.yaml", "--yard", yard);

  say("5. Other teams pull what the channel points to. Every file is checked against its digest on the way.");
  await type("pull", "bard-and-snake:nightly", pulled, "--yard", yard);
  await type("verify", pulled);

  say("6. The same run again finds that nothing changed: nothing is computed, nothing is published.");
  await type("run", "examples/pipeline.yaml", "--yard", yard);

  say(`Done in ${((Date.now() - startedMs) / 1000).toFixed(1)} s. The result is an ordinary model folder: ${pulled}

What to try next:
  npx mergeyard show bard-and-snake:nightly --yard ${yard}
  npx mergeyard merge examples/slerp.yaml --out ${path.join(shown, "slerp")}
  change the weight in examples/pipeline.yaml and run it again: what did not change is not computed again
  README.md shows your own models in place of these, and docs/semantics.md what is guaranteed`);
}

if (asked !== undefined && existsSync(folder)) {
  process.stderr.write(`${folder} is there already; name a folder that is not\n`);
  process.exitCode = 2;
} else {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  await demo();
}
