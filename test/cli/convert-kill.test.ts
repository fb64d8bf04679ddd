// `convert` killed with SIGKILL at many moments: the target is absent or whole, and the same command run again makes
// what an undisturbed run makes and leaves nothing beside it.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { digestBytes } from "../../core/artifact/digest.ts";

const SOURCE = join(import.meta.dirname, "../golden/deepspeed/z1_tp2_pp2_dp2_bf16_tied");
const COMMAND = join(import.meta.dirname, "../../cli/mergeyard.mjs");
const TOPOLOGY = ["--tp", "2", "--dp", "3", "--zero", "2"];
/** Moments of an undisturbed run at which it is killed: the first half is mostly the start of the program. */
const MOMENTS = [0.6, 0.8, 0.9, 0.97];

type Ended = { readonly code: number | null; readonly tookMs: number };

function convert(out: string, killAfterMs?: number): Promise<Ended> {
  const started = performance.now();
  const args = [COMMAND, "convert", SOURCE, "--to", "deepspeed", "--out", out, ...TOPOLOGY];
  const child = spawn(process.execPath, args, { stdio: "ignore" });
  const timer = killAfterMs === undefined ? undefined : setTimeout(() => child.kill("SIGKILL"), killAfterMs);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => {
      clearTimeout(timer);
      resolve({ code, tookMs: performance.now() - started });
    });
  });
}

/** Digests by name of every file under a folder. */
function filesOf(folder: string): ReadonlyMap<string, string> {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const names = entries.map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1)).sort();
  return new Map(names.map((name) => [name, digestBytes(readFileSync(join(folder, name)))]));
}

test("convert killed at any moment loses nothing and leaves nothing half written", { timeout: 300_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), "mergeyard-kill-"));
  try {
    const { code, tookMs } = await convert(join(folder, "whole"));
    assert.equal(code, 0);
    const expected = filesOf(join(folder, "whole"));
    assert.ok(expected.has("latest"));
    const out = join(folder, "killed");
    for (const moment of MOMENTS) {
      await convert(out, moment * tookMs);
      if (existsSync(out)) assert.deepEqual(filesOf(out), expected, `at ${moment}`);
      rmSync(out, { recursive: true, force: true });
      assert.equal((await convert(out)).code, 0);
      assert.deepEqual(filesOf(out), expected, `after ${moment}`);
      assert.deepEqual(readdirSync(folder).sort(), ["killed", "whole"]);
      rmSync(out, { recursive: true });
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
