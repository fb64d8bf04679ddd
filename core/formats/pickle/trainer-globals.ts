// Names that trainers' own objects bring into a pickle beside the weights: settings, callbacks, clocks. Nothing reads
// what they stand for, so globals.ts keeps them as placeholders; only that they are named is no reason to refuse.
// Source: what Lightning, OmegaConf (which Hydra hands to trainers), Transformer Engine and numpy pickle.

/** Instances, with whatever arguments and state they bear, become one placeholder each. */
export const PLACEHOLDERS: ReadonlyMap<string, readonly string[]> = new Map([
  ["numpy.core.multiarray", ["scalar", "_reconstruct"]],
  ["numpy._core.multiarray", ["scalar", "_reconstruct"]],
  ["numpy.core.numeric", ["_frombuffer"]],
  ["numpy._core.numeric", ["_frombuffer"]],
  ["numpy", ["dtype"]],
  ["pathlib", ["Path", "PosixPath", "PurePosixPath", "WindowsPath"]],
  ["pathlib._local", ["Path", "PosixPath", "PurePosixPath", "WindowsPath"]],
  ["datetime", ["date", "datetime", "time", "timedelta", "timezone"]],
  ["decimal", ["Decimal"]],
  ["uuid", ["UUID"]],
  ["types", ["SimpleNamespace"]],
  ["__builtin__", ["slice", "xrange"]],
  ["builtins", ["range", "slice"]],
  ["_io", ["BytesIO"]],
  ["omegaconf.base", ["ContainerMetadata", "Metadata", "UnionNode"]],
  ["omegaconf.dictconfig", ["DictConfig"]],
  ["omegaconf.listconfig", ["ListConfig"]],
  [
    "omegaconf.nodes",
    ["AnyNode", "BooleanNode", "BytesNode", "EnumNode", "FloatNode", "IntegerNode", "PathNode", "StringNode"],
  ],
]);

/** Dicts by another name. */
export const DICTS: readonly string[] = Object.freeze([
  "lightning.fabric.utilities.data AttributeDict",
  "lightning.pytorch.utilities.parsing AttributeDict",
  "lightning_fabric.utilities.data AttributeDict",
  "pytorch_lightning.utilities.parsing AttributeDict",
]);

/** Classes that stand for themselves: types in settings, factories of dicts, keys of callbacks. Never called. */
export const CLASSES: readonly string[] = Object.freeze([
  ...["__builtin__", "builtins"].flatMap((module) =>
    ["bool", "dict", "float", "int", "list", "long", "object", "str", "tuple", "unicode"].map((n) => `${module} ${n}`),
  ),
  "numpy ndarray",
  "typing Any",
  "pytorch_lightning.callbacks.early_stopping EarlyStopping",
  "pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint",
]);
