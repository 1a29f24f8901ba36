"""A custom judge: prefers the answer that is in the language of the prompt."""

from icr.languages import detect


class RightLanguage:
    rule = "an answer in the prompt's language beats one in another"

    def preferences(self, rows):
        return [0.5 + 0.5 * (self.right(row, "first") - self.right(row, "second")) for row in rows]

    def right(self, row, side):
        return detect(row[side]) == row["lang"]
