"""WHAT IS MOUNTED? Volumes under the extensions root, read and judged before postgres starts."""
