// `mergeyard derive MODEL --bits 6|4|2 --out DIR`: a model of INT8 as one of fewer bits, from its stored integers. The
// folder appears whole or not at all.
import type { Command } from "commander";
import { InvalidArgumentError, Option } from "commander";
import { LOWER_BITS, type LowerBits } from "../../core/schemes/double-rounding.ts";
import { deriveStep } from "../../steps/quantize/derive.ts";
import { resolveModel } from "../../steps/resolve-model.ts";
import { runStep } from "../../steps/step.ts";
import { openYard } from "../../steps/yard.ts";
import { createStoreOpener } from "../../stores/open.ts";
import type { OpenStore } from "../../stores/store.ts";
import { forceOption, jsonOption, parseLocalPath, toUri } from "../arguments.ts";
import { intoFolder } from "../output.ts";
import { createProgress, readingProgress } from "../progress.ts";
import { locateSource } from "../source.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, describeLoss, formatBytes } from "../text.ts";

type Options = {
  readonly bits: LowerBits;
  readonly out: string;
  readonly yard?: string;
  readonly original?: string;
  readonly force: boolean;
  readonly json?: boolean;
};

export function addDerive(program: Command, terminal: Terminal): void {
  program
    .command("derive")
    .description("make a compressed-tensors folder of fewer bits from a model of INT8, without its float weights")
    .argument("<model>", "a folder of INT8; with --yard also MODEL (its latest), MODEL@VERSION or MODEL:CHANNEL")
    .addOption(new Option("--bits <n>", "bits of a code: 6, 4 or 2").argParser(parseBits).makeOptionMandatory())
    .addOption(new Option("--out <dir>", "the folder to make").argParser(parseLocalPath).makeOptionMandatory())
    .option("--yard <yard>", "where the model is published: a folder or s3://bucket/prefix")
    .option("--original <src>", "what the model was quantized from, to say what quantizing it directly would lose")
    .addOption(forceOption())
    .addOption(jsonOption())
    .action((model: string, options: Options) => derive(model, options, terminal));
}

function parseBits(text: string): LowerBits {
  const bits = LOWER_BITS.find((each) => String(each) === text);
  if (bits === undefined) throw new InvalidArgumentError(`It must be one of ${LOWER_BITS.join(", ")}.`);
  return bits;
}

async function derive(model: string, options: Options, terminal: Terminal): Promise<void> {
  const openStore = createStoreOpener(terminal.env);
  const source = await findModel(model, options.yard, openStore, terminal);
  const original =
    options.original === undefined ? undefined : await findModel(options.original, undefined, openStore, terminal);
  const progress = createProgress(terminal, { silent: options.json === true });
  const result = await intoFolder(options, terminal, ({ target, deps }) => {
    const input = { source, original, bits: options.bits, target };
    return runStep(deriveStep, input, { ...deps, ...readingProgress(progress, "derive") });
  }).finally(() => progress.end());
  printResult(terminal, options.json, { ...result, target: toUri(options.out, terminal.cwd) }, () => {
    const each = ((8 * result.bytes) / result.elements).toFixed(2);
    const counts = `${countOf(result.tensors, "tensor")}, ${formatBytes(result.bytes)}, ${each} bits each`;
    const line = `${result.scheme} in ${options.out}: ${countOf(result.derived, "module")} derived; ${counts}`;
    return `${line}; against INT8: ${describeLoss(result)}${describeOriginal(result.original)}`;
  });
}

function describeOriginal(original: { derived: number; direct: number; gap: number } | null): string {
  if (original === null) return "";
  const { derived, direct, gap } = original;
  const side = gap < 0 ? "better" : "worse";
  const both = `${derived.toFixed(1)} dB, quantized directly ${direct.toFixed(1)} dB`;
  return `; against the original: ${both} (${Math.abs(gap).toFixed(2)} dB ${side})`;
}

/** A path or URI that exists, else a name of the yard. */
async function findModel(text: string, yard: string | undefined, openStore: OpenStore, terminal: Terminal) {
  if (yard === undefined) {
    const { folder, file } = locateSource(text, terminal.cwd);
    return { store: folder, prefix: "", file };
  }
  const opened = await openYard(openStore, toUri(yard, terminal.cwd));
  const scope = { openStore, yard: opened, aliases: [], folders: [toUri(".", terminal.cwd)], signal: terminal.signal };
  const { store, prefix, file } = await resolveModel(scope, text);
  return { store: store.uri, prefix, file };
}
