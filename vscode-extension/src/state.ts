/** What is known of the server and its engine. */

/** The notification `treeline/status`, as the server sends it. */
export interface EngineStatus {
  readonly kind: "Normal" | "Warning" | "Error" | "Inactive";
  readonly busy: boolean;
  readonly message: string;
  readonly state: "starting" | "loading" | "ready" | "failed";
  readonly model: string;
  readonly phase: string;
  readonly done: number;
  readonly total: number;
  readonly tokensPerSecond: number | null;
  readonly acceptedPerPass: number | null;
  readonly engineMemoryBytes: number | null;
}

/** The server's process. `failed`: it is not tried again until somebody asks. */
export type ServerState =
  | { readonly kind: "starting" }
  | { readonly kind: "running"; readonly version: string; readonly source: string }
  | { readonly kind: "missing"; readonly tried: readonly string[] }
  | { readonly kind: "failed"; readonly message: string };

/** All that the status item depends on. */
export interface Situation {
  readonly server: ServerState;
  readonly engine: EngineStatus | undefined;
  readonly enabled: boolean;
  /** Whether VS Code shows suggestions at all: its own setting. */
  readonly shown: boolean;
  readonly disabledLanguages: readonly string[];
  /** Of the document in the active editor, undefined if suggestions are not for it. */
  readonly language: string | undefined;
}
