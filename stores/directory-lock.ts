// A lock for one key of a folder store, across processes and threads, that a killed holder cannot keep. Only the short
// synchronous part of `replace` and `delete` runs under it; readers and all other writers never wait.
//
// The lock is a symbolic link whose target names its holder: made by one exclusive system call, whole from its first
// moment, read by another. A lock whose holder is dead is removed by whoever first takes the *break lock* named after
// that holder's nonce: only the owner of the break lock may remove the dead lock, and it looks again before it does, so
// a slow contender can never remove a lock that a third one took meanwhile. Break locks of dead breakers are broken by
// the same rule.
import { createHash, randomInt, randomUUID } from "node:crypto";
import { mkdirSync, readFileSync, readlinkSync, symlinkSync, unlinkSync } from "node:fs";
import { hostname } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { MergeyardError } from "../core/error.ts";
import { parseJson } from "../core/json.ts";
import { errnoOf } from "./directory-paths.ts";

/** What a lock's link says of its holder. */
type Holder = {
  /**
   * Where process numbers mean something: Linux's boot id and process number space (two containers on one machine count
   * apart), elsewhere the host's name.
   */
  readonly system: string;
  readonly pid: number;
  /** When that process began, so that a reused number is not taken for the old process. */
  readonly began: string;
  readonly nonce: string;
};

/**
 * Milliseconds of watching one holder after which its lock is broken although it cannot be shown to be dead: it is on
 * another machine or in another container, or a thread of a live process that was terminated. The guarded work is
 * synchronous and takes under a millisecond; a machine would have to be suspended within it for this to be too short.
 */
const WATCH_MS = 60_000;
/**
 * Milliseconds to wait for live holders before StoreConflict. Too low: crowded channels fail; too high: slow errors.
 */
const WAIT_MS = 90_000;
/** Dead holders in a row while breaking; each level is another process killed within the same millisecond. */
const BREAK_DEPTH_MAX = 8;

/** What one contender has seen: which holder each lock had, and since when in its own time of waiting. */
type Watch = { waitedMs: number; readonly seen: Map<string, { readonly holder: string; readonly sinceMs: number }> };

/**
 * Runs `work`, which must be synchronous, while holding the lock of a key. Throws StoreConflict when live holders do
 * not let go in time.
 */
export async function underLock<T>(locks: string, key: string, work: () => T, signal?: AbortSignal): Promise<T> {
  const path = join(locks, createHash("sha256").update(key).digest("hex").slice(0, 40));
  const watch: Watch = { waitedMs: 0, seen: new Map() };
  for (let waits = 1; watch.waitedMs < WAIT_MS; waits++) {
    signal?.throwIfAborted();
    const outcome = tryUnderLock(locks, path, watch, work);
    if (outcome !== undefined) return outcome.value;
    const delayMs = 1 + randomInt(Math.min(64, 2 * waits));
    await sleep(delayMs);
    watch.waitedMs += delayMs;
  }
  throw new MergeyardError("StoreConflict", { where: { file: key }, found: holderAt(path) });
}

/** One attempt, without any wait: undefined when a live holder has the lock. */
function tryUnderLock<T>(locks: string, path: string, watch: Watch, work: () => T): { value: T } | undefined {
  const own = take(locks, path, watch, 0);
  if (own === undefined) return undefined;
  try {
    return { value: work() };
  } finally {
    release(path, own);
  }
}

function take(locks: string, path: string, watch: Watch, depth: number): string | undefined {
  const own = describeHolder();
  for (let attempt = 0; attempt < 16; attempt++) {
    try {
      symlinkSync(own, path);
      return own;
    } catch (error) {
      if (errnoOf(error) === "ENOENT") makeLockFolder(locks);
      else if (errnoOf(error) !== "EEXIST") throw error;
    }
    const holder = holderAt(path);
    if (holder === undefined) continue;
    if (!isBreakable(path, holder, watch) || depth >= BREAK_DEPTH_MAX) return undefined;
    if (!breakLock(locks, path, holder, watch, depth + 1)) return undefined;
  }
  return undefined;
}

/** Makes the folder. Another process may remove it, empty, at any moment, so the caller tries again. */
function makeLockFolder(locks: string): void {
  for (const folder of [dirname(locks), locks]) {
    try {
      mkdirSync(folder);
    } catch (error) {
      if (!["EEXIST", "ENOENT"].includes(errnoOf(error) ?? "")) throw error;
    }
  }
}

function breakLock(locks: string, path: string, holder: string, watch: Watch, depth: number): boolean {
  const breakPath = join(locks, `break-${createHash("sha256").update(path).update(holder).digest("hex").slice(0, 40)}`);
  const own = take(locks, breakPath, watch, depth);
  if (own === undefined) return false;
  try {
    if (holderAt(path) === holder) unlinkSync(path);
    return true;
  } finally {
    release(breakPath, own);
  }
}

function release(path: string, own: string): void {
  if (holderAt(path) === own) unlinkSync(path);
}

function holderAt(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

function isBreakable(path: string, text: string, watch: Watch): boolean {
  const holder = parseHolder(text);
  if (holder !== undefined && isDead(holder)) return true;
  const seen = watch.seen.get(path);
  if (seen?.holder === text) return watch.waitedMs - seen.sinceMs >= WATCH_MS;
  watch.seen.set(path, { holder: text, sinceMs: watch.waitedMs });
  return false;
}

/** True only when the holder certainly runs no more. */
function isDead(holder: Holder): boolean {
  if (holder.system !== thisSystem()) return false;
  const began = processBegan(holder.pid);
  if (began === undefined) return true;
  return began !== UNKNOWN && holder.began !== UNKNOWN && began !== holder.began;
}

let system: string | undefined;
function thisSystem(): string {
  system ??= describeSystem();
  return system;
}

function describeSystem(): string {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    return `${boot} ${readlinkSync("/proc/self/ns/pid")}`;
  } catch {
    return hostname();
  }
}

const UNKNOWN = "unknown";

/** When a process began, in the system's own words; undefined when there is no such process. */
function processBegan(pid: number): string | undefined {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (errnoOf(error) === "ESRCH") return undefined;
  }
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? undefined : fields[19];
  } catch {
    return UNKNOWN;
  }
}

let ownBegan: string | undefined;
function describeHolder(): string {
  ownBegan ??= processBegan(process.pid) ?? UNKNOWN;
  const holder: Holder = { system: thisSystem(), pid: process.pid, began: ownBegan, nonce: randomUUID() };
  return JSON.stringify(holder);
}

function parseHolder(text: string): Holder | undefined {
  const value = parseJson(text);
  return isHolder(value) ? value : undefined;
}

function isHolder(value: unknown): value is Holder {
  if (typeof value !== "object" || value === null) return false;
  const fields: Partial<Record<keyof Holder, unknown>> = value;
  const texts = [fields.system, fields.began, fields.nonce];
  return texts.every((text) => typeof text === "string") && Number.isSafeInteger(fields.pid);
}
