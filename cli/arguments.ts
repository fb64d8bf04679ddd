// How arguments are read: the option parsers that commands share, and paths into URIs. A value that cannot be read is a
// usage error (exit status 2), found before anything else happens.
import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { InvalidArgumentError, Option } from "commander";
import { parsePublicKeys } from "../core/artifact/public-key.ts";
import { MergeyardError } from "../core/error.ts";
import { FAMILY_IDS } from "../core/universal/family-ids.ts";
import type { Terminal } from "./terminal.ts";
import { parseBytes } from "./text.ts";

/** Of threads and processes. */
const COUNT_MAX = 1024;
/** Below this no window of any size fits beside the program itself. */
const MEMORY_BYTES_MIN = 64 * 2 ** 20;

/** `--model NAME=PATH`, repeatable: where a name of the recipe lives. */
export function modelOption(): Option {
  return new Option("--model <name=path>", "where a model named in the recipe lives; repeatable")
    .argParser(collectModel)
    .default({}, "none");
}

/** `--threads N`: worker threads; the default is the number of cores. */
export function threadsOption(): Option {
  return new Option("--threads <n>", "worker threads (default: one for each core)").argParser(parseCount);
}

/** More threads in one worker process of a run only wait for its memory. */
const JOB_THREADS_MAX = 4;

/** Threads of one worker process of a run, unless `--threads` says otherwise. */
export function defaultJobThreads(): number {
  return Math.min(JOB_THREADS_MAX, availableParallelism());
}

/** `--threads N` of runs. */
export function jobThreadsOption(): Option {
  const help = `threads of a worker process (default: one for each core, ${JOB_THREADS_MAX} at most)`;
  return new Option("--threads <n>", help).argParser(parseCount);
}

/** More worker processes of a run at one time only wait for each other's disk. */
const JOBS_MAX = 8;

/** Worker processes of a run at one time, unless `--jobs` says otherwise. */
export function defaultJobs(): number {
  return Math.min(JOBS_MAX, availableParallelism());
}

/** `--jobs N`: worker processes at one time. */
export function jobsOption(): Option {
  const help = `worker processes at one time (default: one for each core, ${JOBS_MAX} at most)`;
  return new Option("--jobs <n>", help).argParser(parseCount);
}

/** `--memory BYTES`: memory of a process; the default is the planner's. */
export function memoryOption(): Option {
  return new Option("--memory <bytes>", "memory of a worker process, such as 512MiB or 2G").argParser(parseMemory);
}

export function yardOption(): Option {
  return new Option("--yard <yard>", "the yard: a folder or s3://bucket/prefix").makeOptionMandatory();
}

/** `--yard YARD` of a command that needs none: models may be names in it. */
export function lookupOption(): Option {
  return new Option("--yard <yard>", "where models that are given by name are published");
}

/** `--key FILE`: what a version must be signed with. */
export function keyOption(): Option {
  return new Option("--key <file>", "public keys (PEM), one of which must have signed (default: MERGEYARD_PUBLIC_KEY)");
}

/**
 * The text of the trusted keys that the option or MERGEYARD_PUBLIC_KEY names; undefined: none is asked for. Throws
 * SigningKeyInvalid.
 */
export async function readTrustedKeys(
  option: string | undefined,
  { env, cwd }: Pick<Terminal, "env" | "cwd">,
): Promise<string | undefined> {
  const file = option ?? (env.MERGEYARD_PUBLIC_KEY || undefined);
  if (file === undefined) return undefined;
  const text = await readFile(path.resolve(cwd, file), "utf8").catch((cause: unknown) => {
    throw new MergeyardError("SigningKeyInvalid", { where: { file }, found: "no file that can be read", cause });
  });
  // The step gets the text alone: what is wrong with it is said here, with the file's name.
  parsePublicKeys(text, file);
  return text;
}

/** Of `--patterns FILE`, which patterns-file.ts reads. */
export const PATTERNS_HELP = "YAML that says how tensor-parallel ranks cut parameters, by name patterns";

/** `--family NAME`: whose built-in table says it instead. */
export function familyOption(): Option {
  const help = "family of the model, whose built-in table says how tensor-parallel ranks cut parameters";
  return new Option("--family <name>", help).choices(FAMILY_IDS);
}

export function jsonOption(): Option {
  return new Option("--json", "print one JSON document instead of text");
}

/** `--state-machine ARN`: what runs pipelines on AWS; the default is MERGEYARD_STATE_MACHINE. */
export function stateMachineOption(): Option {
  return new Option("--state-machine <arn>", "the deployed state machine (default: MERGEYARD_STATE_MACHINE)");
}

/** `--force`, of commands that make a folder or a file. */
export function forceOption(): Option {
  return new Option("--force", "replace a former output of Mergeyard").default(false, "refuse it");
}

/** Seconds, fractions too. */
export function parseSeconds(text: string): number {
  const seconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) : 0;
  if (seconds <= 0 || seconds > 86_400) {
    throw new InvalidArgumentError("It must be seconds, more than 0 and at most 86400.");
  }
  return seconds;
}

/** True for a URI; anything else is a path. Throws StoreUriInvalid for what looks like `s3:/bucket`. */
export function isUri(text: string): boolean {
  if (/^[a-z][a-z0-9+.-]*:\/\//.test(text)) return true;
  // As a path it would be a folder of that name here, made without a word.
  if (/^(?:s3|file):/i.test(text)) throw new MergeyardError("StoreUriInvalid", { where: { store: text } });
  return false;
}

/** URI of a folder or object given as a path (seen from `cwd`) or as a URI already. Throws StoreUriInvalid. */
export function toUri(text: string, cwd: string): string {
  if (isUri(text)) return text.replace(/(?<=[^/:])\/+$/, "");
  const { href } = pathToFileURL(path.resolve(cwd, text));
  return href.endsWith("/") ? href.slice(0, -1) : href;
}

/** The same for a folder that is made: plain files, nothing of the store's own beside them. */
export function toOutputUri(text: string, cwd: string): string {
  const uri = toUri(text, cwd);
  return uri.startsWith("file:") ? `${uri}?durable=false` : uri;
}

/** The store and the key of a file given as a path (seen from `cwd`) or as a URI. Throws StoreUriInvalid. */
export function locateFile(text: string, cwd: string): { store: string; key: string } {
  const uri = toUri(text, cwd);
  const slash = uri.lastIndexOf("/");
  return { store: uri.slice(0, slash), key: decodeURIComponent(uri.slice(slash + 1)) };
}

/** A path of this machine, for what cannot be made elsewhere. */
export function parseLocalPath(text: string): string {
  if (text === "") throw new InvalidArgumentError("It must be a path.");
  if (isUri(text)) throw new InvalidArgumentError("It must be a folder of this machine.");
  return text;
}

/** A whole number, for ranks and their counts. */
export function parseWhole(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw new InvalidArgumentError("It must be a whole number.");
  return Number(text);
}

function collectModel(text: string, previous: Readonly<Record<string, string>>): Record<string, string> {
  const at = text.indexOf("=");
  if (at < 1 || at === text.length - 1) throw new InvalidArgumentError("It must be NAME=PATH.");
  const name = text.slice(0, at);
  if (Object.hasOwn(previous, name)) throw new InvalidArgumentError(`${name} is given twice.`);
  return { ...previous, [name]: text.slice(at + 1) };
}

/** Throws CliUsage when one of these options, by their names, was given: beside the others it can have no effect. */
export function refuseGiven(
  options: Readonly<Record<string, unknown>>,
  beside: { readonly found?: string | undefined; readonly expected: string },
): void {
  const field = Object.entries(options).find(([, value]) => value !== undefined)?.[0];
  if (field !== undefined) throw new MergeyardError("CliUsage", { where: { field }, ...beside });
}

/** A number of threads, processes or ranks. */
export function parseCount(text: string): number {
  const threads = /^\d+$/.test(text) ? Number(text) : 0;
  if (threads < 1 || threads > COUNT_MAX) {
    throw new InvalidArgumentError(`It must be a whole number from 1 to ${COUNT_MAX}.`);
  }
  return threads;
}

/** A number of bytes. */
export function parseSize(text: string): number {
  const bytes = parseBytes(text);
  if (bytes === undefined) throw new InvalidArgumentError("It must be a size such as 512MiB, 2G or 1048576.");
  return bytes;
}

function parseMemory(text: string): number {
  const bytes = parseSize(text);
  if (bytes < MEMORY_BYTES_MIN) throw new InvalidArgumentError("It must be at least 64MiB.");
  return bytes;
}
