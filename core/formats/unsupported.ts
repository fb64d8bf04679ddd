// Checkpoints that people drop and that no parser here reads: recognised by file names, so that the refusal can name
// the kind and say what to do instead.
import type { CheckpointFile } from "../checkpoint.ts";

export type UnsupportedKind = { readonly title: string; readonly hint: string };

type Evidence = UnsupportedKind & { readonly path: RegExp };

const SAVE_AS_SAFETENSORS = "load it with the library that wrote it and save it as safetensors";

/** By the path inside the folder; the first that matches a file decides, so the more telling come first. */
const EVIDENCE: readonly Evidence[] = Object.freeze([
  {
    path: /(^|\/)latest_checkpointed_iteration\.txt$|(^|\/)iter_\d{7}\//,
    title: "Megatron-LM checkpoint of one file for each rank",
    hint: "save it as torch_dist (--ckpt-format torch_dist), or export it with Megatron's own converter",
  },
  {
    path: /(^|\/)(_CHECKPOINT_METADATA|manifest\.ocdbt|_METADATA)$/,
    title: "orbax checkpoint",
    hint: SAVE_AS_SAFETENSORS,
  },
  {
    path: /^model_index\.json$/,
    title: "diffusers pipeline",
    hint: "name one of its sub-folders, such as unet or transformer",
  },
  {
    path: /^sharded\/(shard-\d+-)?model-\d+-of-\d+\.safetensors$/,
    title: "distributed checkpoint of safetensors whose consolidation was not finished",
    hint: "name its folder `sharded`",
  },
  {
    path: /^[^/]+\/\.metadata$/,
    title: "folder with a distributed checkpoint of torch inside",
    hint: "name the folder that holds .metadata, such as pytorch_model_fsdp_0",
  },
  { path: /\.(h5|msgpack|npz|onnx|pdparams)$/i, title: "checkpoint of another framework", hint: SAVE_AS_SAFETENSORS },
]);

/** The known but unsupported kind that these files are; undefined when nothing tells. */
export function recogniseUnsupported(files: readonly CheckpointFile[]): UnsupportedKind | undefined {
  return EVIDENCE.find(({ path }) => files.some(({ name }) => path.test(name)));
}
