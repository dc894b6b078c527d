/** A file to try suggestions in. */

import * as vscode from "vscode";

export const SAMPLE = `"""Put the cursor behind the last line's space, type "return", and pause: grey text is a suggestion.

Tab accepts it, Esc dismisses it. Ctrl+Right (macOS: Cmd+Right) accepts one word.
"""


def area(width: float, height: float) -> float:
    """Return the area of a rectangle."""
    return width * height


def perimeter(width: float, height: float) -> float:
    """Return the perimeter of a rectangle."""
    `;

/** Open it, with the cursor where there is something to complete. */
export async function openSample(): Promise<void> {
  const document = await vscode.workspace.openTextDocument({ language: "python", content: SAMPLE });
  const editor = await vscode.window.showTextDocument(document);
  const end = document.positionAt(SAMPLE.length);
  editor.selection = new vscode.Selection(end, end);
  editor.revealRange(new vscode.Range(end, end));
}
