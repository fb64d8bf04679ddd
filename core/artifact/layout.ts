// Where things live in a yard (design: "A yard"). The only place that spells these keys.

export const layout = Object.freeze({
  upload: (model: string, upload: string) => `incoming/${model}/${upload}/`,
  checkpoint: (model: string, digest: string) => `checkpoints/${model}/${shortDigest(digest)}/`,
  version: (model: string, version: string) => `artifacts/${model}/${version}/`,
  versionManifest: (model: string, version: string) => `artifacts/${model}/${version}/manifest.json`,
  channel: (model: string, channel: string) => `channels/${model}/${channel}.json`,
  pipeline: (name: string) => `pipelines/${name}.yaml`,
  /** A pipeline sent from somebody's machine, named by its digest: what a remote run was started with. */
  submitted: (digest: string) => `submitted/${shortDigest(digest)}.yaml`,
  /** How a start ended that `serve` made; while it is there, the same cause starts the pipeline no more. */
  start: (name: string) => `starts/${name}.json`,
  starts: "starts/",
  run: (run: string) => `runs/${run}/`,
  plan: (run: string) => `runs/${run}/plan.jsonl`,
  recipe: (run: string) => `runs/${run}/recipe.yaml`,
  receipt: (run: string, stage: number, index: number) => `runs/${run}/receipts/${pad(stage)}-${pad(index)}.json`,
  receipts: (run: string) => `runs/${run}/receipts/`,
  unitOutput: (run: string, file: string) => `runs/${run}/output/${file}`,
  /** What a stage makes for later ones: no part of the version. */
  stageOutput: (run: string, stage: number) => `runs/${run}/stages/${pad(stage)}/`,
  /** What a job says of itself while it works; overwritten by it alone. */
  progress: (run: string, stage: number, job: number) => `runs/${run}/progress/${pad(stage)}-${pad(job)}.json`,
  progresses: (run: string) => `runs/${run}/progress/`,
  /** Created once, when a run has published or found nothing to publish. */
  result: (run: string) => `runs/${run}/result.json`,
  events: (run: string) => `runs/${run}/events.jsonl`,
  report: (run: string) => `runs/${run}/report.html`,
  failure: (run: string, attempt: number) => `runs/${run}/failures/${pad(attempt)}.json`,
  failures: (run: string) => `runs/${run}/failures/`,
  /** The last failure of a unit; counts only while the unit has no receipt. */
  unitFailure: (run: string, stage: number, index: number) =>
    `runs/${run}/failures/unit-${pad(stage)}-${pad(index)}.json`,
  unitFailures: (run: string) => `runs/${run}/failures/unit-`,
  /** One object per finished state of the local interpreter's execution. */
  journal: (run: string, attempt: number, entry: number) => `runs/${run}/journal/${pad(attempt)}-${pad(entry)}.json`,
  journals: (run: string) => `runs/${run}/journal/`,
  cache: (key: string) => `cache/${key.replace("sha256:", "")}.json`,
});

const NAMED = /(incoming|checkpoints|artifacts)\/([A-Za-z0-9._-]+)[/@](?:sha256:)?([A-Za-z0-9._-]+)/g;

/** Folders of models that a text names, as a plan or a pipeline spells them; more than it means, never less. */
export function namedFolders(text: string): readonly string[] {
  return [...text.matchAll(NAMED)].map(([, area = "", model = "", name = ""]) => {
    return area === "checkpoints" ? layout.checkpoint(model, name) : `${area}/${model}/${name}/`;
  });
}

/** Versions that a text names as MODEL@VERSION, or by the beginning of it; channels that it names look like them. */
export function namedVersions(text: string): readonly { readonly model: string; readonly beginning: string }[] {
  return [...text.matchAll(/([A-Za-z0-9._-]+)@([A-Za-z0-9._-]+)/g)].map(([, model = "", beginning = ""]) => ({
    model,
    beginning,
  }));
}

/** True for the key of a run's failure, and not of a unit's. */
export function isRunFailure(key: string): boolean {
  return /^runs\/[^/]+\/failures\/\d+\.json$/.test(key);
}

/** First 16 hex digits: names folders; the full digest is always inside, and is checked. */
export function shortDigest(digest: string): string {
  return digest.replace("sha256:", "").slice(0, 16);
}

function pad(value: number): string {
  return String(value).padStart(6, "0");
}
