// `mergeyard verify`: reads every byte and checks it against its digest: a folder that was pulled, merged or converted,
// or versions of a yard, these with what they were made from. With public keys, who signed them.
import type { Command } from "commander";
import { MergeyardError } from "../../core/error.ts";
import { readManifest, readUniversal } from "../../steps/checkpoint-listing.ts";
import { runStep } from "../../steps/step.ts";
import type { VerifyOutput } from "../../steps/verify.ts";
import { verifyStep } from "../../steps/verify.ts";
import { findVersion, listModels, openYard, parseVersionReference } from "../../steps/yard.ts";
import { createStoreOpener } from "../../stores/open.ts";
import type { ObjectStore, OpenStore } from "../../stores/store.ts";
import { jsonOption, keyOption, readTrustedKeys, toUri } from "../arguments.ts";
import { createProgress } from "../progress.ts";
import { locateSource } from "../source.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, describeSignature, formatBytes } from "../text.ts";

type Options = { readonly yard?: string; readonly key?: string; readonly json?: boolean };
/** A folder to verify, and the version that it should be. */
type Target = { readonly title: string; readonly folder: string; readonly version: string | undefined };

export function addVerify(program: Command, terminal: Terminal): void {
  program
    .command("verify")
    .description("check every byte against its digest, and the signature against public keys")
    .argument("[target]", "a folder; with --yard MODEL, MODEL@VERSION or MODEL:CHANNEL, or nothing for all versions")
    .option("--yard <yard>", "verify versions of this yard, and what they were made from")
    .addOption(keyOption())
    .addOption(jsonOption())
    .action((target: string | undefined, options: Options) => verify(target, options, terminal));
}

async function verify(target: string | undefined, options: Options, terminal: Terminal): Promise<void> {
  const openStore = createStoreOpener(terminal.env);
  const targets = await findTargets(target, options, openStore, terminal);
  const trustedKeys = await readTrustedKeys(options.key, terminal);
  const yard = options.yard === undefined ? undefined : toUri(options.yard, terminal.cwd);
  const given = { ...(yard && { yard }), ...(trustedKeys !== undefined && { trustedKeys }) };
  const progress = createProgress(terminal, { silent: options.json === true });
  const deps = {
    ...createStepDeps(terminal, openStore),
    progress: ({ bytesRead }: { bytesRead: number }) => progress.update(bytesRead),
  };
  const results: VerifyOutput[] = [];
  try {
    for (const { title, folder, version } of targets) {
      progress.begin(`verify ${title}`, await readTotalBytes(openStore(folder), terminal.signal));
      const input = { folder, ...(version !== undefined && { version }), ...given };
      results.push(await runStep(verifyStep, input, deps));
    }
  } finally {
    progress.end();
  }
  printResult(terminal, options.json, { verified: results }, () =>
    results.length === 0
      ? "the yard has no published version"
      : results.map((result, index) => describe(targets[index]?.title ?? "", result)).join("\n"),
  );
}

async function findTargets(
  target: string | undefined,
  options: Options,
  openStore: OpenStore,
  terminal: Terminal,
): Promise<readonly Target[]> {
  if (options.yard === undefined) {
    if (target === undefined) throw new MergeyardError("CliUsage", { found: "neither a folder nor --yard" });
    const { folder, file } = locateSource(target, terminal.cwd);
    if (file !== undefined) {
      throw new MergeyardError("YardManifestMissing", {
        where: { file: target },
        found: "a file",
        expected: "a folder",
      });
    }
    return [{ title: target, folder, version: undefined }];
  }
  const yard = await openYard(openStore, toUri(options.yard, terminal.cwd));
  const toTarget = (model: string, version: string): Target => ({
    title: `${model}@${version}`,
    folder: `${yard.uri}/artifacts/${model}/${version}`,
    version,
  });
  if (target !== undefined) {
    const { model, version } = await findVersion(yard, parseVersionReference(target));
    return [toTarget(model, version)];
  }
  const models = await listModels(yard);
  return models.flatMap(({ model, versions }) => versions.map(({ version }) => toTarget(model, version)));
}

/** Bytes of the files that the folder's document lists; 0 when verifying will say what is wrong with it. */
async function readTotalBytes(store: ObjectStore, signal: AbortSignal): Promise<number> {
  const listManifest = async () => (await readManifest(store, "", signal)).manifest;
  try {
    const isUniversal = (await store.head("universal.json", { signal })) !== undefined;
    const { files } = isUniversal ? await readUniversal(store, "", signal) : await listManifest();
    return files.map((file) => file.bytes).reduce((sum, bytes) => sum + bytes, 0);
  } catch {
    return 0;
  }
}

function describe(title: string, { files, tensors, bytes, digest, signature, lineage }: VerifyOutput): string {
  const counts = `${countOf(files, "file")}, ${countOf(tensors, "tensor")}`;
  const here = lineage?.filter(({ place }) => place !== null).length ?? 0;
  const inputs = lineage === null ? "" : `; ${here} of ${countOf(lineage.length, "input")} in the yard, as they were`;
  const signed = signature === null ? "" : describeSignature(signature);
  return `${title} is whole: ${counts}, ${formatBytes(bytes)}, ${digest}${inputs}${signed}`;
}
