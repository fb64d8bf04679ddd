// `mergeyard pull MODEL DIR --yard YARD`: fetches a published version into a folder, every file checked on its way.
import type { Command } from "commander";
import { MergeyardError } from "../../core/error.ts";
import * as listing from "../../steps/checkpoint-listing.ts";
import { pullStep } from "../../steps/pull/pull.ts";
import { restoreStep } from "../../steps/pull/restore.ts";
import { runStep } from "../../steps/step.ts";
import { findVersion, openYard, parseVersionReference } from "../../steps/yard.ts";
import { createStoreOpener } from "../../stores/open.ts";
import {
  jsonOption,
  keyOption,
  parseCount,
  parseWhole,
  readTrustedKeys,
  toOutputUri,
  toUri,
  yardOption,
} from "../arguments.ts";
import { createProgress } from "../progress.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, describeSignature, formatBytes } from "../text.ts";

type Options = {
  readonly yard: string;
  readonly key?: string;
  readonly json?: boolean;
  readonly tp?: number;
  readonly pp?: number;
  readonly dp?: number;
  readonly rank?: number;
  readonly vocabMultiple?: number;
};

export function addPull(program: Command, terminal: Terminal): void {
  program
    .command("pull")
    .description("fetch a published version into a folder and verify it")
    .argument("<model>", "MODEL (its latest), MODEL@VERSION or MODEL:CHANNEL")
    .argument("<dir>", "the folder to fill; an interrupted pull goes on where it stopped")
    .addOption(yardOption())
    .addOption(keyOption())
    .option("--rank <r>", "restore this rank of a universal checkpoint MODEL[@DIGEST] for another topology", parseWhole)
    .option("--tp <n>", "with --rank: tensor-parallel ranks (default: 1)", parseWhole)
    .option("--pp <n>", "with --rank: pipeline stages (default: 1)", parseWhole)
    .option("--dp <n>", "with --rank: data-parallel ranks (default: 1)", parseWhole)
    .option("--vocab-multiple <n>", "with --rank: pad the vocabulary to a multiple of n x tp", parseCount)
    .addOption(jsonOption())
    .action((model: string, folder: string, options: Options) => pull(model, folder, options, terminal));
}

async function pull(model: string, folder: string, options: Options, terminal: Terminal): Promise<void> {
  if (options.rank !== undefined) return restore(model, folder, { ...options, rank: options.rank }, terminal);
  const { tp, pp, dp, vocabMultiple } = options;
  if ([tp, pp, dp, vocabMultiple].some((value) => value !== undefined)) {
    throw new MergeyardError("CliUsage", { found: "a topology and no rank", expected: "--rank R, one of its ranks" });
  }
  const trustedKeys = await readTrustedKeys(options.key, terminal);
  const openStore = createStoreOpener(terminal.env);
  const yard = await openYard(openStore, toUri(options.yard, terminal.cwd));
  const place = await findVersion(yard, parseVersionReference(model));
  const { manifest } = await listing.readManifest(yard, place.prefix, terminal.signal);
  const progress = createProgress(terminal, { silent: options.json === true });
  progress.begin(
    "pull",
    manifest.files.reduce((sum, file) => sum + file.bytes, 0),
  );
  // The version that was found: a channel that moves meanwhile changes nothing any more.
  const input = {
    yard: yard.uri,
    model: `${place.model}@${place.version}`,
    target: toOutputUri(folder, terminal.cwd),
    ...(trustedKeys === undefined ? {} : { trustedKeys }),
  };
  const deps = {
    ...createStepDeps(terminal, openStore),
    progress: ({ bytesWritten }: { bytesWritten: number }) => progress.update(bytesWritten),
  };
  const pulled = await runStep(pullStep, input, deps).finally(() => progress.end());
  const result = { ...pulled, channel: place.channel ?? null, target: toUri(folder, terminal.cwd) };
  printResult(terminal, options.json, result, () => {
    const reused = result.reusedBytes === 0 ? "" : `, of which ${formatBytes(result.fetchedBytes)} were fetched`;
    const files = `${countOf(result.files, "file")}, ${formatBytes(result.bytes)}${reused}`;
    const signed = describeSignature(result.signature);
    return `pulled ${result.model}@${result.version} into ${folder}: ${files}, every digest right${signed}`;
  });
}

/** One rank of a topology: its slices of a universal checkpoint, and nothing else. */
async function restore(
  model: string,
  folder: string,
  options: Options & { readonly rank: number },
  terminal: Terminal,
): Promise<void> {
  const { tp = 1, pp = 1, dp = 1, rank, vocabMultiple: vocabularyMultiple } = options;
  if (Math.min(tp, pp, dp) < 1 || rank >= tp * pp * dp) {
    throw new MergeyardError("CliUsage", { found: `rank ${rank} of ${tp} x ${pp} x ${dp} ranks` });
  }
  const progress = createProgress(terminal, { silent: options.json === true });
  progress.begin("restore", 0);
  const deps = {
    ...createStepDeps(terminal, createStoreOpener(terminal.env)),
    progress: ({ bytesWritten }: { bytesWritten: number }) => progress.update(bytesWritten),
  };
  const place = { yard: toUri(options.yard, terminal.cwd), model, target: toOutputUri(folder, terminal.cwd) };
  const result = await runStep(restoreStep, { ...place, tp, pp, dp, rank, vocabularyMultiple }, deps).finally(() =>
    progress.end(),
  );
  printResult(terminal, options.json, { ...result, target: toUri(folder, terminal.cwd) }, () => {
    const what = `${countOf(result.tensors, "tensor")}, ${formatBytes(result.bytes)}`;
    return `restored rank ${rank} of ${model} into ${folder}: ${what}; ${formatBytes(result.fetchedBytes)} fetched`;
  });
}
