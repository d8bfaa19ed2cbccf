// Texts of lists, which may hold anything. They reach the page as text alone, never as HTML.

// Control characters, and those that hide or reverse the text around them.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;

export function shown(text) {
  return text.replace(HIDDEN, (character) => `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}`);
}

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("aria-") || key === "role" || key === "dir") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children); // strings become text nodes
  return made;
}

// A link where the text is a web address, else the text: `javascript:` and its like are never a link.
export function place(text) {
  const label = shown(text);
  if (/^https?:\/\/[^\s/]/i.test(text) && URL.canParse(text)) {
    const target = new URL(text);
    if (target.protocol === "http:" || target.protocol === "https:") {
      return element("a", {
        href: target.href, rel: "noreferrer noopener", target: "_blank", title: label, textContent: label,
        class: "place", dir: "ltr",
      });
    }
  }
  return element("span", { title: label, textContent: label, class: "place", dir: "ltr" });
}

export const count = (number) => number.toLocaleString("en");
export const score = (number) => number.toFixed(3);
