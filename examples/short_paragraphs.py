"""A custom reward: prefers answers whose longest paragraph is short, and those that end by themselves."""


class ShortParagraphs:
    def rewards(self, rows):
        return [self.reward(row["response"], row["finish_reason"]) for row in rows]

    def reward(self, response, finish_reason):
        longest = max(len(paragraph) for paragraph in response.split("\n\n"))
        return -longest / 100 + (1.0 if finish_reason == "stop" else 0.0)
