// Goal: experts that route alike become one, as section 11 of the merge reference says; nothing else changes. Method:
// small models of each family in files, through the command line.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { parseManifest } from "../../core/artifact/manifest.ts";
import { countGroups, groupExperts } from "../../core/moe/grouping.ts";
import { plainNumbers } from "../random-numbers.ts";
import { type PlainTensor, readPlainModel, runJson, writePlainModel } from "./model-files.ts";

let cwd = "";
before(() => {
  cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-experts-"));
});
after(() => rmSync(cwd, { recursive: true }));

const EXPERTS = 4;
const [INNER, WIDTH] = [5, 3];
const PREFIX = "model.layers.0.block_sparse_moe";

function expertNames(expert: number): readonly [string, string, string] {
  const name = (part: string) => `${PREFIX}.experts.${expert}.${part}.weight`;
  return [name("w1"), name("w3"), name("w2")];
}

/** Experts 0 and 2 route alike, and 2 is 0 with its units turned around and a little changed; so are 1 and 3. */
function writeMixtral(folder: string, config: Readonly<Record<string, unknown>> = {}): void {
  const tensors: Record<string, PlainTensor> = { "model.norm.weight": { shape: [WIDTH], values: [1, 2, 3] } };
  for (let expert = 0; expert < EXPERTS; expert++) {
    const twin = expert % 2;
    const [w1, w3, w2] = expertNames(expert);
    const rows = (seed: number) => {
      const values = plainNumbers(INNER * WIDTH, seed + 10 * twin);
      const units = Array.from({ length: INNER }, (_, i) => values.slice(i * WIDTH, (i + 1) * WIDTH));
      return expert < 2 ? units : units.toReversed();
    };
    tensors[w1] = { shape: [INNER, WIDTH], values: rows(1).flat() };
    tensors[w3] = { shape: [INNER, WIDTH], values: rows(2).flat() };
    const columns = rows(3);
    const last = Array.from({ length: WIDTH }, (_, i) => columns.map((unit) => unit[i] ?? 0));
    tensors[w2] = { shape: [WIDTH, INNER], values: last.flat().map((value) => value + (expert < 2 ? 0 : 0.01)) };
  }
  const router = Array.from({ length: EXPERTS }, (_, i) => (i % 2 === 0 ? [1, 0.1 * i, 0] : [0, 1, 0.1 * i]));
  tensors[`${PREFIX}.gate.weight`] = { shape: [EXPERTS, WIDTH], values: router.flat() };
  writePlainModel(path.join(cwd, folder), "model.safetensors", tensors, {
    "config.json": { model_type: "mixtral", ...config },
  });
}

function writeStatistics(usage: readonly number[]): void {
  const tokens = Array.from({ length: 6 }, (_, t) => [t, -t, t + 0.1, 0.2 - t]);
  writePlainModel(cwd, "statistics.safetensors", {
    [`${PREFIX}.router_logits`]: { shape: [6, EXPERTS], values: tokens.flat() },
    [`${PREFIX}.usage_frequency`]: { shape: [usage.length], values: usage },
  });
}

describe("merge-experts", () => {
  test("twins become one, by use, their units matched first", async () => {
    writeMixtral("model");
    writeStatistics([0.5, 0.2, 0.25, 0.05]);
    const args = ["merge-experts", "model", "--groups", "2", "--statistics", "statistics.safetensors"];
    const result = await runJson(cwd, ...args, "--out", "merged");
    // Expert 2 routes a little less against 1 and 3 than 0 does.
    assert.deepEqual(result.layers, [{ prefix: PREFIX, labels: [0, 1, 1, 1], cores: [0, 2] }]);
    const data = await runJson(cwd, "merge-experts", "model", "--groups", "2", "--data-free", "--out", "free");
    assert.deepEqual(data.layers, [{ prefix: PREFIX, labels: [0, 1, 0, 1], cores: [0, 1] }]);
    const [before, after] = [
      await readPlainModel(path.join(cwd, "model")),
      await readPlainModel(path.join(cwd, "free")),
    ];
    for (let expert = 0; expert < EXPERTS; expert++) {
      const names = expertNames(expert);
      const twins = expertNames(expert % 2);
      names.forEach((name, part) => {
        const [got, original] = [after[name], before[twins[part] ?? ""]];
        const offset = part === 2 ? 0.005 : 0;
        got?.values.forEach((value, i) => {
          assert.ok(Math.abs(value - (original?.values[i] ?? 0) - offset) < 1e-5, `${name} ${i}: ${value}`);
        });
      });
    }
    assert.deepEqual(after[`${PREFIX}.gate.weight`], before[`${PREFIX}.gate.weight`]);
    assert.deepEqual(after["model.norm.weight"], before["model.norm.weight"]);
    const [input] = parseManifest(readFileSync(path.join(cwd, "merged/manifest.json")))?.inputs ?? [];
    assert.equal(input?.model, "model");
    assert.match(input?.digest ?? "", /^sha256:/);
  });

  test("aligned to the layer's first expert, experts only move; compressed, they have few ranks", async () => {
    writeMixtral("m2");
    await runJson(cwd, "merge-experts", "m2", "--align", "layer", "--out", "aligned");
    const [before, after] = [
      await readPlainModel(path.join(cwd, "m2")),
      await readPlainModel(path.join(cwd, "aligned")),
    ];
    const [w1] = expertNames(2);
    assert.deepEqual(after[w1]?.values, before[expertNames(0)[0]]?.values);
    const compressed = ["merge-experts", "m2", "--align", "none", "--rank-ratio", "0.1", "--residual-ratio"];
    await runJson(cwd, ...compressed, "0", "--out", "low");
    const low = (await readPlainModel(path.join(cwd, "low")))[w1]?.values ?? [];
    const cross = (low[0] ?? 0) * (low[4] ?? 0) - (low[1] ?? 0) * (low[3] ?? 0);
    assert.ok(Math.abs(cross) < 1e-6, "rank 1");
    await runJson(cwd, ...compressed, "1", "--out", "all");
    assert.deepEqual(await readPlainModel(path.join(cwd, "all")), before);
  });

  test("shrunk, a layer has one expert a group with its core's row of the router", async () => {
    writeMixtral("wide", {});
    const wide = `{
  "model_type": "mixtral",
  "num_local_experts": ${EXPERTS},
  "num_experts_per_tok": 2,
  "router_jitter_noise": 0.0
}\n`;
    writeFileSync(path.join(cwd, "wide/config.json"), wide);
    writeStatistics([0.2, 0.1, 0.3, 0.4]);
    const args = ["merge-experts", "wide", "--groups", "2", "--statistics", "statistics.safetensors"];
    const { layers } = await runJson(cwd, ...args, "--out", "repeated");
    await runJson(cwd, ...args, "--shrink", "--out", "shrunk");
    const { labels, cores } = Object(layers)[0];
    assert.deepEqual(cores, [3, 2]);
    const [before, repeated, shrunk] = await Promise.all(
      ["wide", "repeated", "shrunk"].map((name) => readPlainModel(path.join(cwd, name))),
    );
    for (let group = 0; group < 2; group++) {
      const member = labels.indexOf(group);
      expertNames(group).forEach((name, part) => {
        assert.deepEqual(shrunk?.[name], repeated?.[expertNames(member)[part] ?? ""], name);
      });
    }
    assert.equal(Object.keys(shrunk ?? {}).length, Object.keys(before ?? {}).length - 6);
    const row = (expert: number) =>
      before?.[`${PREFIX}.gate.weight`]?.values.slice(expert * WIDTH, (expert + 1) * WIDTH) ?? [];
    assert.deepEqual(shrunk?.[`${PREFIX}.gate.weight`], { shape: [2, WIDTH], values: [...row(3), ...row(2)] });
    const config = readFileSync(path.join(cwd, "shrunk/config.json"), "utf8");
    assert.equal(config, wide.replace(`${EXPERTS}`, "2"));
    assert.deepEqual((await runJson(cwd, "verify", "shrunk")).code, undefined);
  });

  test("half a group, fewer than a token goes to, and a config without a count cannot be shrunk", async () => {
    const shrink = (model: string, groups: string) =>
      runJson(cwd, "merge-experts", model, "--groups", groups, "--data-free", "--shrink", "--out", "n");
    writeMixtral("two", { num_local_experts: EXPERTS, num_experts_per_tok: 2 });
    const half = await shrink("two", "2.5");
    assert.deepEqual([half.code, half.found], ["MoeGroupsImpossible", "2.5 groups a layer"]);
    const few = await shrink("two", "1");
    assert.deepEqual([few.code, few.expected], ["MoeGroupsImpossible", "at least 2 groups"]);
    writeMixtral("uncounted");
    const uncounted = await shrink("uncounted", "2");
    assert.deepEqual(
      [uncounted.code, uncounted.found],
      ["MoeModelUnknown", "a config.json whose num_local_experts is not that of its layers"],
    );
    writeMixtral("grouped", { num_local_experts: EXPERTS, n_group: 2 });
    assert.deepEqual((await shrink("grouped", "2")).found, "n_group: 2");
    assert.equal((await runJson(cwd, "merge-experts", "two", "--shrink", "--out", "n")).code, "CliUsage");
  });

  test("no experts, statistics that do not fit, and more groups than experts are refused", async () => {
    writeMixtral("m3");
    writePlainModel(path.join(cwd, "dense"), "model.safetensors", { "x.weight": { shape: [1], values: [1] } });
    const dense = await runJson(cwd, "merge-experts", "dense", "--out", "n");
    assert.deepEqual([dense.code, dense.found], ["MoeModelUnknown", "no experts"]);
    writeStatistics([1, 0, 0]);
    const wrong = ["merge-experts", "m3", "--groups", "2", "--statistics", "statistics.safetensors", "--out", "n"];
    const misfit = await runJson(cwd, ...wrong);
    assert.deepEqual([misfit.code, misfit.found], ["MoeStatisticsInvalid", `${PREFIX}.usage_frequency of shape [3]`]);
    const many = await runJson(cwd, "merge-experts", "m3", "--groups", "5", "--data-free", "--out", "n");
    assert.deepEqual([many.code, many.found], ["MoeGroupsImpossible", "5 groups a layer"]);
    assert.equal((await runJson(cwd, "merge-experts", "m3", "--groups", "2", "--out", "n")).code, "CliUsage");
  });

  test("groups are spread over layers by use, each layer has one, and equal uses keep their order", () => {
    const similarity = { rows: 3, columns: 3, values: Float64Array.of(1, 0, 0.9, 0, 1, 0.2, 0.9, 0.2, 1) };
    const layer = (usage: readonly number[]) => ({ usage, similarity });
    assert.deepEqual(countGroups([layer([0.4, 0.35, 0.25]), layer([0.9, 0.05, 0.05])], 2), [3, 1]);
    assert.deepEqual(countGroups([layer([0.3, 0.3, 0.3]), layer([0.3, 0.3, 0.3])], 1.5), [2, 1]);
    assert.deepEqual(countGroups([layer([0.3, 0.3, 0.3]), layer([0.3, 0.3, 0.3])], 2), [2, 2]);
    assert.deepEqual(groupExperts(layer([0.1, 0.7, 0.2]), 2), { labels: [1, 0, 1], cores: [1, 2] });
  });
});
