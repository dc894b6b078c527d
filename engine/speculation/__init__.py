"""Draft trees and their lossless verification. Knows nothing of models."""
