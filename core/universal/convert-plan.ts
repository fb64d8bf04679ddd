// The files that a foreign checkpoint is converted to, settled before a byte of weights is read: shards of parameters
// and, beside them, shards of each optimizer state. And what the finished files say: the universal checkpoint's
// document.
import type { PlainFile, TensorFileListing } from "../artifact/listed-file.ts";
import { checkUniversal, UNIVERSAL_FILE, type Universal } from "../artifact/universal.ts";
import type { ByteRange, Checkpoint, Gather } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import type { OpenedCheckpoint } from "../formats/format.ts";
import { type EncodedHeader, encodeSafetensorsHeader } from "../formats/safetensors/safetensors.ts";
import { HF_METADATA, planShards } from "../formats/safetensors/shard-plan.ts";
import type { Dtype, Shape } from "../tensor.ts";
import { compareUtf8, sortByName } from "../utf8-order.ts";
import type { SourceRange } from "./box.ts";
import { type ConversionParameter, STATE_NAMES, type TargetParameter, type TrainedParameter } from "./conversion.ts";

/** A file to write: `gathers` by its tensors, in file order. */
export type ConvertedFile<R = SourceRange> = EncodedHeader & {
  readonly file: string;
  readonly gathers: readonly Gather<R>[];
};

type PlannedTensor<R> = {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: Shape;
  readonly gather: Gather<R>;
};

/**
 * The files of a conversion, of at most `shardBytes` bytes of tensors each: `model*.safetensors` with the parameters,
 * and with `states` `exp_avg*.safetensors` and so on. Parameters are sorted by name, so that the order in which ranks
 * were read does not matter. Throws what planShards throws.
 */
export function planConversion<R = ByteRange>(
  parameters: readonly ConversionParameter<R>[],
  shardBytes: number,
  { states }: { readonly states: boolean },
): readonly ConvertedFile<R | ByteRange>[] {
  const sorted = [...parameters].sort((a, b) => compareUtf8(a.name, b.name));
  const kinds = [undefined, ...(states ? STATE_NAMES : [])];
  return kinds.flatMap((kind) => {
    const tensors = new Map<string, PlannedTensor<R | ByteRange>>();
    for (const parameter of sorted) {
      const tensor = kind === undefined ? parameter : parameter.training?.states[kind];
      const { name, shape } = parameter;
      if (tensor !== undefined) tensors.set(name, { name, shape, dtype: tensor.dtype, gather: tensor.gather });
    }
    if (tensors.size === 0) return [];
    const { shards } = planShards([...tensors.values()], shardBytes);
    return shards.map((shard): ConvertedFile<R | ByteRange> => {
      const gathers = shard.tensors.flatMap(({ name }) => tensors.get(name)?.gather ?? []);
      return { ...shard, file: kind === undefined ? shard.file : shard.file.replace(/^model/, kind), gathers };
    });
  });
}

/** The file of these tensors, whose order is the file's own: what a unit of a plan makes again from its line. */
export function encodeConverted(tensors: readonly PlannedTensor<ByteRange>[]): Omit<ConvertedFile, "file"> {
  const encoded = encodeSafetensorsHeader(tensors, HF_METADATA);
  const gathers = new Map(tensors.map(({ name, gather }) => [name, gather]));
  return { ...encoded, gathers: encoded.tensors.flatMap(({ name }) => gathers.get(name) ?? []) };
}

/** The checkpoint that the conversion will have made: its tensors in the files that are planned. */
export function convertedCheckpoint(before: Checkpoint, files: readonly ConvertedFile[]): Checkpoint {
  const models = sortByName(
    files.filter(({ file }) => isModelFile(file)).map((file) => ({ ...file, name: file.file })),
  );
  return {
    ...before,
    tensorFiles: models.map(({ name, fileBytes }) => ({ name, bytes: fileBytes })),
    tensors: models.flatMap(({ name: file, header, tensors }) =>
      tensors.map(({ name, dtype, shape, offset, bytes }) => {
        return { name, dtype, shape, ranges: [{ file, offset: header.length + offset, bytes }] };
      }),
    ),
  };
}

/** What a file's name begins with that holds parameters; those of states begin with the state's name. */
const PARAMETERS = "model";

/** `exp_avg` of `exp_avg-00001-of-00002.safetensors`. */
function kindOf(file: string): string {
  return /^[a-z_]+/.exec(file)?.[0] ?? "";
}

function isModelFile(file: string): boolean {
  return kindOf(file) === PARAMETERS;
}

function orderOf({ step, group, position }: TrainedParameter) {
  return { step, ...(group === undefined ? {} : { group }), ...(position === undefined ? {} : { position }) };
}

type TensorPlace = Omit<TensorFileListing["tensors"][number], "name" | "shape"> & { readonly file: string };

/**
 * What was converted: files that were read, in parts, so that their digests stay unknown; what its trainer saved; the
 * family whose table was needed.
 */
type ConversionSource = Pick<OpenedCheckpoint, "training" | "family"> & {
  readonly checkpoint: Pick<Checkpoint, "format" | "tensorFiles">;
};

/**
 * The document of a converted checkpoint: the parameters as they were planned, in the files as they were written.
 * Throws UniversalInvalid when the files do not hold the parameters.
 */
export function describeConverted(
  { checkpoint: { format, tensorFiles }, family, training }: ConversionSource,
  parameters: readonly TargetParameter[],
  written: readonly TensorFileListing[],
  sideFiles: readonly PlainFile[],
): Universal {
  const files = sortByName(written);
  const places = new Map<string, TensorPlace>(
    files.flatMap(({ name: file, tensors }) => {
      const kind = kindOf(file);
      return tensors.map(({ name, shape: _, ...place }): [string, TensorPlace] => [
        `${kind} ${name}`,
        { ...place, file },
      ]);
    }),
  );
  const placeOf = (kind: string, name: string): TensorPlace => {
    const place = places.get(`${kind} ${name}`);
    if (place !== undefined) return place;
    const where = { file: UNIVERSAL_FILE, tensor: name };
    throw new MergeyardError("UniversalInvalid", { where, found: "a file without it", expected: kind });
  };
  const described = parameters.map((parameter) => {
    const { name, shape, pattern, paddedRows, aliases, training: own } = parameter;
    const moments = STATE_NAMES.flatMap((state) =>
      own?.states[state] === undefined ? [] : [[state, placeOf(state, name)] as const],
    );
    return {
      name,
      shape: [...shape],
      ...placeOf(PARAMETERS, name),
      pattern,
      ...(paddedRows === undefined ? {} : { vocabulary: { paddedRows } }),
      ...(aliases.length === 0 ? {} : { aliases: [...aliases] }),
      ...(own === undefined ? {} : { states: { ...orderOf(own), ...Object.fromEntries(moments) } }),
    };
  });
  // Tensors without bytes share an offset, so the order is the files' own.
  const inOrder = files.filter(({ name }) => isModelFile(name)).flatMap(({ tensors }) => tensors);
  const order = new Map(inOrder.map(({ name }, index) => [name, index]));
  const plain = ({ name, bytes, digest }: PlainFile) => ({ name, bytes, digest });
  const universal: Universal = {
    universal: 1,
    files: files.map((file) => ({ ...plain(file), headerDigest: file.headerDigest })),
    sideFiles: sortByName(sideFiles).map(plain),
    parameters: described.sort((a, b) => (order.get(a.name) ?? 0) - (order.get(b.name) ?? 0)),
    source: {
      format,
      ...(family === undefined ? {} : { family }),
      files: sortByName([...tensorFiles.map(({ name, bytes }) => ({ name, bytes })), ...sideFiles.map(plain)]),
    },
    ...(training === undefined ? {} : { training }),
  };
  checkUniversal(universal, UNIVERSAL_FILE);
  return universal;
}
