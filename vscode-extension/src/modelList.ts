/** The models that can be chosen, from what `treeline models list --json` prints. */

import { spelled } from "./appearance.ts";

export interface Preset {
  readonly name: string;
  readonly target: string;
  readonly drafter: string;
  readonly summary: string;
  readonly memory: number | null;
  readonly context_length: number | null;
}

export interface Models {
  readonly presets: readonly Preset[];
  readonly repositories: readonly { readonly id: string; readonly size: number; readonly licence: string }[];
  readonly stored: readonly { readonly id: string; readonly size: number; readonly complete: boolean }[];
}

export interface Choice {
  readonly label: string;
  readonly description: string;
  readonly detail: string;
  readonly name: string;
  /** Bytes still to be downloaded. */
  readonly missing: number;
}

/** Return the presets as a list to choose from, for a machine with so many bytes of memory. */
export function choices(models: Models, memory: number, current: string, suggested: string): readonly Choice[] {
  return models.presets.map((preset) => {
    const missing = toDownload(models, preset);
    const licence = models.repositories.find((each) => each.id === preset.target)?.licence;
    const parts = [fit(models, preset, memory), missing ? `${spelled(missing)} to download` : "on this machine"];
    return {
      label: preset.name === current ? `$(check) ${preset.name}` : preset.name,
      description: preset.name === suggested ? `${preset.summary} (suggested for this machine)` : preset.summary,
      detail: [...parts, ...(licence ? [`licence: ${licence}`] : [])].join(" · "),
      name: preset.name,
      missing,
    };
  });
}

/** Return how many bytes of a preset are not on this machine. */
export function toDownload(models: Models, preset: Preset): number {
  let missing = 0;
  for (const id of new Set([preset.target, preset.drafter])) {
    const repository = models.repositories.find((each) => each.id === id);
    const here = models.stored.find((each) => each.id === id);
    if (repository && !here?.complete) missing += Math.max(repository.size - (here?.size ?? 0), 1);
  }
  return missing;
}

function fit(models: Models, preset: Preset, memory: number): string {
  const weights = models.repositories.find((each) => each.id === preset.target)?.size;
  if (weights === undefined) return "fits any machine";
  if (preset.name.startsWith("gpu-")) return `for a GPU with ${spelled(preset.memory ?? weights)} to spare`;
  const needed = preset.memory ?? weights;
  if (needed < 0.8 * memory) return `fits: needs ${spelled(needed)} of ${spelled(memory)}`;
  return `larger than this machine's ${spelled(memory)}: set memory in Treeline's configuration, and it streams from the disk`;
}
