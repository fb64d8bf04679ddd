// A folder that holds a universal checkpoint. Its `universal.json` is compared with the files that are there: sizes,
// header digests and every entry of every header. The bytes of tensors are checked when they are read.
import assert from "node:assert/strict";
import { checkDocumentBytes } from "../artifact/document.ts";
import type { TensorFileListing } from "../artifact/listed-file.ts";
import {
  checkpointDigest,
  listTensorFiles,
  parseUniversal,
  UNIVERSAL_FILE,
  type UniversalParameter,
} from "../artifact/universal.ts";
import type { CheckpointFile, FolderReader, TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { gatherWhole } from "../universal/box.ts";
import { type ConversionParameter, type GatheredTensor, STATE_NAMES } from "../universal/conversion.ts";
import { attachDigests, checkConfig, checkFilesPresent, checkHeader } from "./compare-listing.ts";
import type { CheckpointFormat, CheckpointWarning, OpenedCheckpoint } from "./format.ts";
import { readHeaders } from "./safetensors/folder.ts";
import { readSideFiles, topLevelFiles } from "./side-files.ts";

const CHANGED = "UniversalFileChanged";

export const universal = Object.freeze({
  id: "universal",
  title: "universal checkpoint",
  recognise: (files) => files.some(({ name }) => name === UNIVERSAL_FILE),
  open: openUniversalFolder,
} satisfies CheckpointFormat);

/** Only parameters become tensors of the checkpoint; optimizer states are for converters. */
async function openUniversalFolder(folder: FolderReader): Promise<OpenedCheckpoint> {
  const document = findFile(folder.files, UNIVERSAL_FILE);
  checkDocumentBytes(document.bytes, document.name, "UniversalInvalid");
  const described = parseUniversal(await folder.read(document.name, 0, document.bytes));
  const listed = [...described.files, ...described.sideFiles];
  checkFilesPresent(listed, folder.files, CHANGED);
  await checkConfig(folder, described.sideFiles, CHANGED);
  const listings = listTensorFiles(described);
  const tensorFiles = listings.map(({ name, bytes }) => ({ name, bytes }));
  const headers = await readHeaders(folder, tensorFiles);
  const entries = headers.flatMap((header, index) => checkEntries(listings[index], header));
  const parameters = new Set(described.parameters.map(({ file, name }) => `${file}/${name}`));
  const tensors = entries.filter(({ name, ranges }) => parameters.has(`${ranges[0]?.file}/${name}`));
  const files = listed.map(({ name, bytes }) => ({ name, bytes }));
  const { sideFiles, config } = await readSideFiles({ ...folder, files }, tensorFiles);
  return {
    checkpoint: {
      format: universal.id,
      tensorFiles,
      sideFiles,
      tensors: attachDigests(tensors, listings),
      metadata: new Map(headers.flatMap((header) => [...header.metadata])),
      config,
    },
    warnings: warnOfOthers(folder.files, files),
    headers: new Map(
      listings.map(({ name, headerDigest }, index) => [
        name,
        { bytes: headers[index]?.headerBytes ?? 0, digest: headerDigest },
      ]),
    ),
    digest: checkpointDigest(described),
    listings,
    described: described.parameters.map(parameterOf),
    training: described.training,
  };
}

function parameterOf({ name, shape, states, ...own }: UniversalParameter): ConversionParameter {
  const { pattern, vocabulary, aliases = [] } = own;
  const tensorOf = ({ dtype, file, offset, bytes }: TensorPlace): GatheredTensor => {
    return { dtype, gather: gatherWhole([{ file, offset, bytes }], shape) };
  };
  const moments = STATE_NAMES.flatMap((state) => {
    const place = states?.[state];
    return place === undefined ? [] : [[state, tensorOf(place)] as const];
  });
  const { step = 0, group, position } = states ?? {};
  return {
    name,
    shape,
    ...tensorOf(states?.fp32 ?? own),
    pattern,
    paddedRows: vocabulary?.paddedRows,
    aliases,
    training: states === undefined ? undefined : { step, group, position, states: Object.fromEntries(moments) },
  };
}

type TensorPlace = Pick<UniversalParameter, "dtype" | "file" | "offset" | "bytes">;

type Header = Awaited<ReturnType<typeof readHeaders>>[number];

function checkEntries(listing: TensorFileListing | undefined, header: Header): readonly TensorEntry[] {
  assert.ok(listing !== undefined, "every header belongs to a listed file");
  checkHeader(listing, { bytes: header.headerBytes, digest: header.headerDigest }, header.tensors, CHANGED);
  return header.tensors;
}

function findFile(files: readonly CheckpointFile[], name: string): CheckpointFile {
  const file = files.find((each) => each.name === name);
  if (file === undefined)
    throw new MergeyardError("UniversalInvalid", { where: { file: name }, found: "no such file" });
  return file;
}

function warnOfOthers(files: readonly CheckpointFile[], listed: readonly CheckpointFile[]): CheckpointWarning[] {
  const known = new Set([UNIVERSAL_FILE, ...listed.map(({ name }) => name)]);
  return topLevelFiles(files)
    .filter(({ name }) => !known.has(name))
    .map(({ name, bytes }) => ({ code: "FileIgnored", where: { file: name, bytes } }));
}
