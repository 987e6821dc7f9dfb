"""Forms: conversion of typed fields to configuration content, and the mistakes in the fields."""
